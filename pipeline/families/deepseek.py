"""DeepSeek-V3: attention over latents, and experts in groups that a selection bias and a sigmoid choose.

Tensors go by the names of published files, one for each expert's matrix.
"""

from dataclasses import replace

from transformers import DeepseekV3ForCausalLM, PretrainedConfig

from pipeline.families.base import head_dim_of
from pipeline.families.decoder import decoder, decoder_graph, pre_norm_layer
from pipeline.families.graph import Attention, Experts, Layer, Model
from pipeline.families.layer_lists import is_sparse
from pipeline.families.mixture import EXPERT_NAMES, experts, layer_number
from pipeline.families.nodes import gated_mlp, linear, rms_norm, rotary
from pipeline.families.primitives import Latent
from pipeline.families.tensors import Axis, AxisPart

_NOT_TURNED, _TURNED, _VALUE = "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"
_QUERIES = Axis((AxisPart(("heads", _NOT_TURNED), "query"), AxisPart(("heads", _TURNED), "query_rope")), outer=1)
_KEYS_AND_VALUES = Axis((AxisPart(("heads", _NOT_TURNED), "key"), AxisPart(("heads", _VALUE), "value")), outer=1)
_QUERY_LATENT = Axis.of("q_lora_rank", part="latent")
_KEY_LATENT = Axis((AxisPart(("kv_lora_rank",), "latent"), AxisPart((_TURNED,), "key_rope")))


def latent_attention(prefix: str, config: PretrainedConfig) -> Attention:
    """Multi-head latent attention (DeepSeek-V2, 2405.04434).

    The latents' norms add 1e-6 whatever `rms_norm_eps` says. Scores are over sqrt of all channels of a head; the class
    also multiplies them by yarn's factor, which is a matter of positions.
    """
    std, biased = config.initializer_range, config.attention_bias

    def latent(name: str, norm: str, out: Axis) -> Latent:
        return Latent(linear(prefix + name, out, init=std, bias=biased), rms_norm(prefix + norm))

    key_latent = latent("kv_a_proj_with_mqa", "kv_a_layernorm", _KEY_LATENT)
    keys = linear(prefix + "kv_b_proj", _KEYS_AND_VALUES, key_latent.axis, init=std)
    query_latents = () if config.q_lora_rank is None else (latent("q_a_proj", "q_a_layernorm", _QUERY_LATENT),)
    queries = linear(prefix + "q_proj", _QUERIES, init=std)
    for query_latent in query_latents:
        queries = linear(prefix + "q_b_proj", _QUERIES, query_latent.axis, init=std)
    return Attention(
        (queries, keys),
        linear(prefix + "o_proj", into=Axis.of("heads", _VALUE, part="value"), out=Axis.of("residual"), init=std, bias=biased),
        (*query_latents, key_latent),
        rotary=rotary(config, interleaved=config.rope_interleave, joined=True),
        score=(config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5,
    )


def _experts(prefix: str, config: PretrainedConfig) -> Experts:
    """Gates are sigmoids, and a bias that no loss teaches chooses experts with them, in the groups that score best."""
    return replace(
        experts(prefix, config, EXPERT_NAMES, "expert_ffn", renormalized=config.norm_topk_prob),
        gate="sigmoid",
        scaling=config.routed_scaling_factor,
        selection_bias=prefix + "gate.e_score_correction_bias",
        groups=config.n_group,
        groups_per_token=config.topk_group,
        shared=gated_mlp(prefix + "shared_experts.", port="shared_ffn", init=config.initializer_range),
    )


def _layer(prefix: str, config: PretrainedConfig) -> Layer:
    sparse = is_sparse(config, layer_number(prefix))
    mlp = _experts(prefix + "mlp.", config) if sparse else gated_mlp(prefix + "mlp.", init=config.initializer_range)
    return pre_norm_layer(prefix, latent_attention(prefix + "self_attn.", config), mlp)


def deepseek_v3_graph(config: PretrainedConfig) -> Model:
    """transformers' DeepseekV3ForCausalLM."""
    ports = {key: size for key in ("q_lora_rank", "kv_lora_rank", _NOT_TURNED, _VALUE) if (size := getattr(config, key))}
    # All channels of a head's queries and keys.
    turned = head_dim_of(config)
    ports |= {_TURNED: turned, "head_dim": turned + ports[_NOT_TURNED]}
    graph = decoder_graph(config, _layer)
    return replace(graph, sizes={**graph.sizes, **ports})


DEEPSEEK_V3 = decoder(
    DeepseekV3ForCausalLM,
    deepseek_v3_graph,
    variants=(
        {"first_k_dense_replace": 1},
        {"first_k_dense_replace": 1, "q_lora_rank": None},
        {"first_k_dense_replace": 1, "attention_bias": True},
    ),
    kept=(
        *("hidden_act", "rms_norm_eps", "rope_parameters", "rope_interleave", "norm_topk_prob", "routed_scaling_factor"),
        "num_mtp_layers",
    ),
    factors=("routed_scaling_factor",),
    # Published files name these, and the class computes one value of each whatever they say.
    refused={"scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",), "moe_layer_freq": (1,)},
    layers_beyond="num_nextn_predict_layers",
)
