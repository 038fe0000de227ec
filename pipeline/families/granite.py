"""Granite: Llama with constants on the embedding, on what branches add, on scores and on logits."""

from functools import partial

from transformers import GraniteForCausalLM, PretrainedConfig

from pipeline.families.decoder import decoder, decoder_graph, llama_layer
from pipeline.families.graph import Model


def graph(config: PretrainedConfig) -> Model:
    """transformers' GraniteForCausalLM."""
    return decoder_graph(
        config,
        partial(llama_layer, scale=config.residual_multiplier, score=config.attention_multiplier),
        embedding_scale=config.embedding_multiplier,
        logit_scale=1 / config.logits_scaling,
    )


_FACTORS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")

GRANITE = decoder(
    GraniteForCausalLM,
    graph,
    kept=("hidden_act", "rms_norm_eps", "rope_parameters", *_FACTORS),
    factors=_FACTORS,
    variants=({"attention_bias": True, "mlp_bias": True},),
)
