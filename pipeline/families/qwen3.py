"""Qwen3: Llama with a norm over each head's query and key."""

from functools import partial

from transformers import Qwen3ForCausalLM

from pipeline.families.decoder import HEAD_NORM, decoder, decoder_graph, llama_layer

QWEN3 = decoder(
    Qwen3ForCausalLM,
    partial(decoder_graph, layer=partial(llama_layer, norms=HEAD_NORM)),
    variants=({"attention_bias": True},),
)
