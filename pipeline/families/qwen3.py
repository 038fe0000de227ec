"""Qwen3: Llama with a norm over each head's query and key."""

from transformers import Qwen3Config, Qwen3ForCausalLM

from pipeline.families.decoder import decoder, decoder_graph, head_norms_of, llama_layer
from pipeline.families.graph import Model
from pipeline.families.nodes import rms_norm


def graph(config: Qwen3Config) -> Model:
    """transformers' Qwen3ForCausalLM."""
    return decoder_graph(
        config, lambda prefix: llama_layer(prefix, config, **head_norms_of(prefix + "self_attn.")), rms_norm("model.norm")
    )


QWEN3 = decoder("qwen3", Qwen3ForCausalLM, Qwen3Config, graph, variants=({"attention_bias": True},))
