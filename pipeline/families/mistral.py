"""Mistral: Llama's tensors under a sliding window."""

from transformers import MistralConfig, MistralForCausalLM

from pipeline.families.decoder import BPE_OR_WORDS, decoder, decoder_graph, llama_layer
from pipeline.families.graph import Model
from pipeline.families.nodes import rms_norm


def graph(config: MistralConfig) -> Model:
    """transformers' MistralForCausalLM."""
    return decoder_graph(config, lambda prefix: llama_layer(prefix, config, bias=False), rms_norm("model.norm"))


MISTRAL = decoder("mistral", MistralForCausalLM, MistralConfig, graph, tokenizers=BPE_OR_WORDS)
