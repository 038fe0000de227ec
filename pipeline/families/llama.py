"""Llama."""

from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.families.decoder import BPE_OR_WORDS, decoder, decoder_graph, llama_layer
from pipeline.families.graph import Model
from pipeline.families.nodes import rms_norm


def graph(config: LlamaConfig) -> Model:
    """transformers' LlamaForCausalLM."""
    return decoder_graph(config, lambda prefix: llama_layer(prefix, config), rms_norm("model.norm"))


LLAMA = decoder(
    "llama",
    LlamaForCausalLM,
    LlamaConfig,
    graph,
    refused={"pretraining_tp": (1, None)},
    tokenizers=BPE_OR_WORDS,
    variants=({"attention_bias": True, "mlp_bias": True},),
)
