"""Llama, and the families that are its layers with other options."""

from functools import partial

from transformers import (
    GraniteForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    PretrainedConfig,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    SmolLM3ForCausalLM,
)

from pipeline.families.decoder import HEAD_NORM, decoder, decoder_graph, llama_layer
from pipeline.families.graph import Model

_BPE_OR_WORDS = ("sentencepiece_bpe", "byte_level_bpe", "wordpiece")
"""Beside Llama AutoTokenizer makes a BPE of every sentencepiece model."""

_BIASED = {"attention_bias": True}

LLAMA = decoder(
    LlamaForCausalLM, refused={"pretraining_tp": (1, None)}, tokenizers=_BPE_OR_WORDS, variants=(_BIASED | {"mlp_bias": True},)
)

# A sliding window.
MISTRAL = decoder(MistralForCausalLM, layer=partial(llama_layer, bias=False), tokenizers=_BPE_OR_WORDS)

# Biases on query, key and value.
QWEN2 = decoder(
    Qwen2ForCausalLM,
    layer=partial(llama_layer, bias=True),
    tokenizers=("sentencepiece_unigram", "byte_level_bpe"),
    special_tokens_of=("qwen2", "qwen3"),
)

# A norm over each head's query and key.
QWEN3 = decoder(Qwen3ForCausalLM, layer=partial(llama_layer, norms=HEAD_NORM), variants=(_BIASED,))

# Some of its layers know no positions.
SMOLLM3 = decoder(SmolLM3ForCausalLM, variants=(_BIASED | {"mlp_bias": True},))


def granite_graph(config: PretrainedConfig) -> Model:
    """Constants on the embedding, on what branches add, on scores and on logits."""
    return decoder_graph(
        config,
        partial(llama_layer, scale=config.residual_multiplier, score=config.attention_multiplier),
        embedding_scale=config.embedding_multiplier,
        logit_scale=1 / config.logits_scaling,
    )


_FACTORS = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")

GRANITE = decoder(
    GraniteForCausalLM,
    granite_graph,
    kept=("hidden_act", "rms_norm_eps", "rope_parameters", *_FACTORS),
    factors=_FACTORS,
    variants=(_BIASED | {"mlp_bias": True},),
)
