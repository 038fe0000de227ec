"""Decoders whose feed-forward networks are mixtures of experts: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE.

Tensors go by the names of published files, one for each expert's matrix; the classes join them in parameters of three axes.
"""

import re
from dataclasses import replace
from typing import Any

from transformers import MixtralForCausalLM, OlmoeForCausalLM, PretrainedConfig, Qwen2MoeForCausalLM, Qwen3MoeForCausalLM

from pipeline.families.base import size_of
from pipeline.families.decoder import HEAD_NORM, decoder, pre_norm_layer, self_attention
from pipeline.families.graph import Experts, Layer
from pipeline.families.layer_lists import is_sparse
from pipeline.families.nodes import gated_mlp, linear, rms_norm
from pipeline.families.tensors import Axis

_ROUTER = Axis.of("experts")
EXPERT_NAMES = ("gate_proj", "up_proj", "down_proj")


def experts(prefix: str, config: PretrainedConfig, names: tuple[str, str, str], port: str, *, renormalized: bool) -> Experts:
    """A mixture whose experts have these names of gate, unit and output."""
    std = config.initializer_range
    return Experts(
        linear(prefix + "gate", _ROUTER, init=std),
        tuple(gated_mlp(f"{prefix}experts.{e}.", names, port=port, init=std) for e in range(size_of(config, "num_experts"))),
        config.num_experts_per_tok,
        renormalized,
    )


def mixtral_layer(prefix: str, config: PretrainedConfig) -> Layer:
    """Of transformers' MixtralForCausalLM."""
    mlp = experts(prefix + "block_sparse_moe.", config, ("w1", "w3", "w2"), "ffn", renormalized=True)
    return pre_norm_layer(prefix, self_attention(prefix + "self_attn.", config), mlp)


def qwen_layer(prefix: str, config: PretrainedConfig) -> Layer:
    """Of transformers' Qwen2MoeForCausalLM, which has a shared expert, and Qwen3MoeForCausalLM."""
    shared, std = hasattr(type(config), "shared_expert_intermediate_size"), config.initializer_range
    options: dict[str, Any] = {"bias": config.qkv_bias} if shared else {"norms": HEAD_NORM}
    attention = self_attention(prefix + "self_attn.", config, **options)
    if not is_sparse(config, layer_number(prefix)):
        return pre_norm_layer(prefix, attention, gated_mlp(prefix + "mlp.", init=std))
    mlp = experts(prefix + "mlp.", config, EXPERT_NAMES, "expert_ffn", renormalized=config.norm_topk_prob)
    if shared:
        network = gated_mlp(prefix + "mlp.shared_expert.", port="shared_ffn", init=std)
        mlp = replace(mlp, shared=network, shared_gate=linear(prefix + "mlp.shared_expert_gate", Axis.of("one"), init=std))
    return pre_norm_layer(prefix, attention, mlp)


def olmoe_layer(prefix: str, config: PretrainedConfig) -> Layer:
    """Of transformers' OlmoeForCausalLM."""
    mlp = experts(prefix + "mlp.", config, EXPERT_NAMES, "ffn", renormalized=config.norm_topk_prob)
    return pre_norm_layer(prefix, self_attention(prefix + "self_attn.", config, norms=rms_norm), mlp)


def layer_number(prefix: str) -> int:
    """The number of the layer whose tensors' names begin so."""
    return int(prefix.split(".")[-2])


_PUBLISHED = (re.compile(r"^(?=(embed_tokens|layers|norm|rotary_emb)\.)"), "model.")
# What transformers 5 calls Mixtral's modules.
_OLD_NAMES: tuple[tuple[re.Pattern[str], str], ...] = (_PUBLISHED, (re.compile(r"\.mlp\.(?=gate\.)"), ".block_sparse_moe."))
_KEPT = ("hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window")

MIXTRAL = decoder(
    MixtralForCausalLM, layer=mixtral_layer, published=_OLD_NAMES, kept=_KEPT, refused={"router_jitter_noise": (0.0, None)}
)

QWEN2_MOE, QWEN3_MOE = (
    decoder(
        model_class,
        layer=qwen_layer,
        variants=(variant, {"mlp_only_layers": [0]}),
        kept=(*_KEPT, "use_sliding_window", "norm_topk_prob"),
    )
    for model_class, variant in ((Qwen2MoeForCausalLM, {"qkv_bias": False}), (Qwen3MoeForCausalLM, {"attention_bias": True}))
)

OLMOE = decoder(
    OlmoeForCausalLM,
    layer=olmoe_layer,
    own_head_dim=False,
    variants=({"attention_bias": True},),
    kept=("hidden_act", "rms_norm_eps", "rope_parameters", "norm_topk_prob"),
    refused={"clip_qkv": (None,)},
)
