"""Gemma-2 and Gemma-3 (text): norms before and behind each branch, whose gains are stored less 1."""

import math
from functools import partial
from typing import Any

import torch
from transformers import Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, PretrainedConfig

from pipeline.families.decoder import decoder, decoder_graph, self_attention
from pipeline.families.graph import Branch, Layer, Model
from pipeline.families.nodes import gated_mlp, rms_norm

_norm = partial(rms_norm, offset=1.0, gain_in_float32=True)


def layer(prefix: str, config: PretrainedConfig) -> Layer:
    """Gemma-3 normalizes queries and keys, where Gemma-2 caps their scores; it reads that key too, and does not use it."""
    normed = isinstance(config, Gemma3TextConfig)
    attention = self_attention(
        prefix + "self_attn.",
        config,
        norms=partial(_norm, span="head") if normed else None,
        capped=not normed and config.attn_logit_softcapping is not None,
        score=config.query_pre_attn_scalar**-0.5,
    )
    mlp = gated_mlp(prefix + "mlp.", init=config.initializer_range)
    before, behind, before_mlp, behind_mlp = (
        _norm(f"{prefix}{name}_layernorm") for name in ("input", "post_attention", "pre_feedforward", "post_feedforward")
    )
    return Layer.sequential(Branch(attention, pre=before, post=behind), Branch(mlp, pre=before_mlp, post=behind_mlp))


def graph(config: PretrainedConfig) -> Model:
    """transformers' Gemma2ForCausalLM and Gemma3ForCausalLM."""
    # The class holds sqrt(D) as a float32.
    scale = torch.tensor(math.sqrt(config.hidden_size)).item()
    return decoder_graph(config, layer, _norm, embedding_scale=scale, capped=config.final_logit_softcapping is not None)


_FACTORS = ("query_pre_attn_scalar",)
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_OPTIONS: dict[str, Any] = {
    "kept": ("hidden_activation", "rms_norm_eps", "rope_parameters", "sliding_window", *_FACTORS, *_CAPS),
    "factors": _FACTORS,
    "caps": _CAPS,
    "variants": ({"attention_bias": True},),
    # Each token would see those that it is to predict.
    "refused": {"use_bidirectional_attention": (False, None)},
}

GEMMA2 = decoder(Gemma2ForCausalLM, graph, **_OPTIONS)

GEMMA3 = decoder(Gemma3ForCausalLM, graph, **_OPTIONS)
