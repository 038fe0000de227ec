"""Granite: Llama with constants on the embedding, on what branches add, on scores and on logits."""

from transformers import GraniteConfig, GraniteForCausalLM

from pipeline.families.decoder import decoder, decoder_graph, llama_layer
from pipeline.families.graph import Model
from pipeline.families.nodes import rms_norm


def graph(config: GraniteConfig) -> Model:
    """transformers' GraniteForCausalLM."""
    return decoder_graph(
        config,
        lambda prefix: llama_layer(prefix, config, scale=config.residual_multiplier, score=config.attention_multiplier),
        rms_norm("model.norm"),
        embedding_scale=config.embedding_multiplier,
        logit_scale=1 / config.logits_scaling,
    )


_FACTORS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")

GRANITE = decoder(
    "granite",
    GraniteForCausalLM,
    GraniteConfig,
    graph,
    kept=(
        "hidden_act",
        "rms_norm_eps",
        "rope_parameters",
        *_FACTORS,
    ),
    factors=_FACTORS,
    variants=({"attention_bias": True, "mlp_bias": True},),
)
