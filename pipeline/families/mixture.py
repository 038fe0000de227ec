"""Decoders whose feed-forward networks are mixtures of experts: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE.

Tensors go by the names of published files, one for each expert's matrix; the classes join them in parameters of three axes.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from pipeline.families.base import sizes_of
from pipeline.families.decoder import decoder, decoder_graph, head_norms_of, self_attention
from pipeline.families.graph import Attention, Branch, Experts, Joined, Layer, Mlp, Model
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
        tuple(gated_mlp(f"{prefix}experts.{e}.", names, port=port, init=std) for e in range(sizes_of(config).num_experts)),
        config.num_experts_per_tok,
        renormalized,
    )


def joined(model: Model) -> Model:
    """Return the model with the parameters that its class joins: [experts, gate and unit, stream], [experts, stream, unit]."""
    found = []
    for number, layer in enumerate(model.stack.layers):
        for body in [branch.body for branch in layer.branches if isinstance(branch.body, Experts)]:
            inside, count = f"model.layers.{number}.mlp.", len(body.each)
            units, channels = body.each[0].last.into.size(model.sizes), model.sizes["residual"]
            read = tuple(each.weight for network in body.each for each in network.inputs)
            found += [
                Joined(inside + "experts.gate_up_proj", read, (count, 2 * units, channels)),
                Joined(
                    inside + "experts.down_proj", tuple(network.last.weight for network in body.each), (count, channels, units)
                ),
            ]
            if body.router.weight != inside + "gate.weight":
                found.append(Joined(inside + "gate.weight", (body.router.weight,), (count, channels)))
    return replace(model, joined=tuple(found))


def mixture_layer(prefix: str, attention: Attention, mlp: Mlp | Experts) -> Layer:
    """Llama's layer of these two."""
    return Layer(
        (
            (Branch(attention, pre=rms_norm(prefix + "input_layernorm")),),
            (Branch(mlp, pre=rms_norm(prefix + "post_attention_layernorm")),),
        )
    )


def mixtral_graph(config: MixtralConfig) -> Model:
    """transformers' MixtralForCausalLM."""

    def layer(prefix: str) -> Layer:
        mlp = experts(prefix + "block_sparse_moe.", config, ("w1", "w3", "w2"), "ffn", renormalized=True)
        return mixture_layer(prefix, self_attention(prefix + "self_attn.", config), mlp)

    return joined(decoder_graph(config, layer, rms_norm("model.norm")))


def qwen_graph(config: Qwen2MoeConfig | Qwen3MoeConfig) -> Model:
    """transformers' Qwen2MoeForCausalLM, which has a shared expert, and Qwen3MoeForCausalLM."""
    shared = hasattr(type(config), "shared_expert_intermediate_size")

    def layer(prefix: str) -> Layer:
        inside, options = prefix + "self_attn.", {} if shared else head_norms_of(prefix + "self_attn.")
        attention = self_attention(inside, config, **({"bias": config.qkv_bias} if shared else options))
        number, std = int(prefix.split(".")[-2]), config.initializer_range
        if not is_sparse(config, number):
            return mixture_layer(prefix, attention, gated_mlp(prefix + "mlp.", init=std))
        mlp = experts(prefix + "mlp.", config, EXPERT_NAMES, "expert_ffn", renormalized=config.norm_topk_prob)
        if shared:
            network = gated_mlp(prefix + "mlp.shared_expert.", port="shared_ffn", init=std)
            mlp = replace(mlp, shared=network, shared_gate=linear(prefix + "mlp.shared_expert_gate", Axis.of("one"), init=std))
        return mixture_layer(prefix, attention, mlp)

    return joined(decoder_graph(config, layer, rms_norm("model.norm")))


def olmoe_graph(config: OlmoeConfig) -> Model:
    """transformers' OlmoeForCausalLM."""

    def layer(prefix: str) -> Layer:
        inside = prefix + "self_attn."
        norms = {"query_norm": rms_norm(inside + "q_norm"), "key_norm": rms_norm(inside + "k_norm")}
        mlp = experts(prefix + "mlp.", config, EXPERT_NAMES, "ffn", renormalized=config.norm_topk_prob)
        return mixture_layer(prefix, self_attention(inside, config, **norms), mlp)

    return joined(decoder_graph(config, layer, rms_norm("model.norm")))


_PUBLISHED = (re.compile(r"^(?=(embed_tokens|layers|norm|rotary_emb)\.)"), "model.")
# What transformers 5 calls Mixtral's modules.
_OLD_NAMES: tuple[tuple[re.Pattern[str], str], ...] = (_PUBLISHED, (re.compile(r"\.mlp\.(?=gate\.)"), ".block_sparse_moe."))
_KEPT = ("hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window")

MIXTRAL = decoder(
    "mixtral",
    MixtralForCausalLM,
    MixtralConfig,
    mixtral_graph,
    published=_OLD_NAMES,
    kept=_KEPT,
    refused={"router_jitter_noise": (0.0, None)},
)

_QWEN: Mapping[str, tuple[str, ...]] = {"kept": (*_KEPT, "use_sliding_window", "norm_topk_prob")}

QWEN2_MOE = decoder(
    "qwen2_moe",
    Qwen2MoeForCausalLM,
    Qwen2MoeConfig,
    qwen_graph,
    variants=({"qkv_bias": False}, {"mlp_only_layers": [0]}),
    **_QWEN,
)

QWEN3_MOE = decoder(
    "qwen3_moe",
    Qwen3MoeForCausalLM,
    Qwen3MoeConfig,
    qwen_graph,
    variants=({"attention_bias": True}, {"mlp_only_layers": [0]}),
    **_QWEN,
)

OLMOE = decoder(
    "olmoe",
    OlmoeForCausalLM,
    OlmoeConfig,
    olmoe_graph,
    own_head_dim=False,
    variants=({"attention_bias": True},),
    kept=("hidden_act", "rms_norm_eps", "rope_parameters", "norm_topk_prob"),
    refused={"clip_qkv": (None,)},
)
