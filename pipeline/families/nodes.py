"""Nodes that the graphs of several families share."""

from typing import Any

from transformers import PretrainedConfig

from pipeline.families.base import head_dim_of, sizes_of
from pipeline.families.graph import Mlp
from pipeline.families.primitives import Linear, Norm, Rotary
from pipeline.families.rope import rope_sets
from pipeline.families.tensors import KEY_PORTS, MIXED, QUERY_PORTS, STREAM, UNITS, Axis, AxisPart, Init

_QUERY_KEY_VALUE = (Axis.of(*QUERY_PORTS, part="query"), Axis.of(*KEY_PORTS, part="key"), Axis.of(*KEY_PORTS, part="value"))
GATE_AND_UP = Axis((AxisPart(("ffn",), "gate"), AxisPart(("ffn",), "up")))
"""Both in one matrix; the activation reads the first half."""

_GATED = {
    port: (Axis.of(port, part="gate"), Axis.of(port, part="up"), Axis.of(port)) for port in ("ffn", "expert_ffn", "shared_ffn")
}


def port_sizes(config: PretrainedConfig) -> dict[str, int]:
    """Return the sizes of the ports that all models have."""
    sizes = sizes_of(config)
    experts = {
        "experts": sizes.num_experts,
        "expert_ffn": sizes.moe_intermediate_size,
        "shared_ffn": sizes.shared_units,
        # Of what gives a number for each token.
        "one": None if sizes.num_experts is None else 1,
    }
    return {port: size for port, size in experts.items() if size is not None} | {
        "residual": sizes.hidden_size,
        "heads": sizes.num_attention_heads,
        "kv_heads": sizes.num_key_value_heads,
        "head_dim": sizes.head_dim,
        "ffn": sizes.intermediate_size,
        "vocab": sizes.vocab_size,
    }


def linear(name: str, out: Axis, into: Axis = STREAM, *, init: Init, bias: bool = False, transposed: bool = False) -> Linear:
    """A linear module of that name."""
    return Linear(f"{name}.weight", out, into, f"{name}.bias" if bias else None, transposed, init)


def query_key_value(
    prefix: str, names: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj"), **options: Any
) -> tuple[Linear, Linear, Linear]:
    """Three separate linears, keys and values over key-value heads."""
    query, key, value = (linear(prefix + name, axis, **options) for name, axis in zip(names, _QUERY_KEY_VALUE, strict=True))
    return query, key, value


def fused_heads(*, outer: int = 0) -> Axis:
    """Return the axis of queries, keys and values of one matrix, `outer` as in Axis."""
    return Axis(tuple(AxisPart(QUERY_PORTS, part) for part in ("query", "key", "value")), outer)


def attention_output(name: str, **options: Any) -> Linear:
    """The linear that writes what attention mixes into the stream."""
    return linear(name, STREAM, MIXED, **options)


def gated_mlp(
    prefix: str, names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"), *, port: str = "ffn", **options: Any
) -> Mlp:
    """act(gate) * up, and down, of the units of a port."""
    gate, up, down = (prefix + name for name in names)
    gates, units, read = _GATED[port]
    return Mlp((linear(gate, gates, **options), linear(up, units, **options)), linear(down, STREAM, read, **options))


def plain_mlp(up: str, down: str, *, down_init: Init | None = None, init: Init, **options: Any) -> Mlp:
    """act(up), and down."""
    written = init if down_init is None else down_init
    return Mlp((linear(up, UNITS, init=init, **options),), linear(down, STREAM, UNITS, init=written, **options))


def rms_norm(name: str, **options: Any) -> Norm:
    """An RMSNorm module of that name."""
    return Norm("rms", f"{name}.weight", **options)


def layer_norm(name: str, *, bias: bool = True, **options: Any) -> Norm:
    """A LayerNorm module of that name."""
    return Norm("layer", f"{name}.weight", f"{name}.bias" if bias else None, **options)


def rotary(config: PretrainedConfig, **options: Any) -> Rotary:
    """Rotary positions of the part of a head that the configuration names."""
    (share,) = {rope.get("partial_rotary_factor") or 1.0 for rope in rope_sets(config).values()}
    return Rotary(int(head_dim_of(config) * share), **options)


def score(config: PretrainedConfig) -> float:
    """1 / sqrt(d_k)."""
    return head_dim_of(config) ** -0.5
