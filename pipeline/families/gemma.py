"""Gemma-2 and Gemma-3 (text): norms before and behind each branch, whose gains are stored less 1."""

import math

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from pipeline.families.decoder import decoder, decoder_graph, head_norms_of, self_attention
from pipeline.families.graph import Branch, Layer, Model
from pipeline.families.nodes import gated_mlp, rms_norm

_NORM = {"offset": 1.0, "gain_in_float32": True}


def graph(config: Gemma2Config | Gemma3TextConfig) -> Model:
    """transformers' Gemma2ForCausalLM and Gemma3ForCausalLM."""

    def layer(prefix: str) -> Layer:
        inside = prefix + "self_attn."
        # Gemma-3 normalizes queries and keys, where Gemma-2 caps their scores; it reads that key too, and does not use it.
        others = (
            head_norms_of(inside, **_NORM)
            if isinstance(config, Gemma3TextConfig)
            else {"capped": config.attn_logit_softcapping is not None}
        )
        attention = self_attention(inside, config, score=config.query_pre_attn_scalar**-0.5, **others)
        mlp = gated_mlp(prefix + "mlp.", init=config.initializer_range)
        around = {
            name: rms_norm(f"{prefix}{name}_layernorm", **_NORM)
            for name in ("input", "post_attention", "pre_feedforward", "post_feedforward")
        }
        return Layer(
            (
                (Branch(attention, pre=around["input"], post=around["post_attention"]),),
                (Branch(mlp, pre=around["pre_feedforward"], post=around["post_feedforward"]),),
            )
        )

    # The class holds sqrt(D) as a float32.
    scale = torch.tensor(math.sqrt(config.hidden_size)).item()
    return decoder_graph(
        config,
        layer,
        rms_norm("model.norm", **_NORM),
        embedding_scale=scale,
        capped=config.final_logit_softcapping is not None,
    )


_FACTORS = ("query_pre_attn_scalar",)
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_OPTIONS = {
    "kept": ("hidden_activation", "rms_norm_eps", "rope_parameters", "sliding_window", *_FACTORS, *_CAPS),
    "factors": _FACTORS,
    "caps": _CAPS,
    "variants": ({"attention_bias": True},),
    # Each token would see those that it is to predict.
    "refused": {"use_bidirectional_attention": (False, None)},
}

GEMMA2 = decoder("gemma2", Gemma2ForCausalLM, Gemma2Config, graph, **_OPTIONS)

GEMMA3 = decoder("gemma3_text", Gemma3ForCausalLM, Gemma3TextConfig, graph, **_OPTIONS)
