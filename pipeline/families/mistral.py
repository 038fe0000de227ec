"""Mistral: Llama's tensors under a sliding window."""

from functools import partial

from transformers import MistralForCausalLM

from pipeline.families.decoder import BPE_OR_WORDS, decoder, decoder_graph, llama_layer

MISTRAL = decoder(MistralForCausalLM, partial(decoder_graph, layer=partial(llama_layer, bias=False)), tokenizers=BPE_OR_WORDS)
