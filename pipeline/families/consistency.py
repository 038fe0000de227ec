"""Whether a configuration describes a model at all: held to rules of its sizes, and to the Hugging Face class itself."""

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, TypeGuard

import torch
from transformers import PretrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pipeline.common.errors import UserError, one_line
from pipeline.families.base import EXPERT_KEYS, GROUP_KEYS, LATENT_KEYS, Family, config_key, depth_keys, has_key, sizes_of
from pipeline.families.layer_lists import of_layers
from pipeline.families.registry import check_parameters
from pipeline.families.rope import rope_sets, rotary_module
from pipeline.families.shape import check_heads
from pipeline.recipe.models import MOST_EXPERTS

MOST_LAYERS = 10_000
"""No model has more; a wrong number of them would take hours to be refused by anything else."""

_MOST = 1 << 26
"""What any size of a model is at most: no model has more, and growth makes lists as long as an axis."""

_MOST_ID = (1 << 31) - 1
"""What a window or an id is at most."""

_MOST_HEAD_DIM = 1 << 16
"""No head has more channels; rotary frequencies take memory for each."""

_EPSILONS = ("_eps", "_epsilon")
_ROPES = ("default", *ROPE_INIT_FUNCTIONS)
_PAIR_LISTS = ("short_factor", "long_factor")
_ATTENTION = ("full_attention", "sliding_attention")


_OWN = "put the model's own value there"


def check_config(family: Family, config: PretrainedConfig, origin: str, remedy: str = _OWN) -> None:
    """Refuse a configuration from which the family's class builds no model that computes numbers.

    Raises UserError, which begins with `origin`, naming the key where a rule here finds it. What no rule knows, the class
    is asked: it builds one layer without memory, which must have the table's tensors.
    """
    check_values(family, config, origin, remedy)
    sizes = sizes_of(config)
    check_heads(family, sizes, f"{origin}: ")
    usable = family.usable_positions(sizes)
    if usable is not None and usable < 1:
        raise UserError(
            f"{origin}: max_position_embeddings: {sizes.max_position_embeddings} leaves no position to read, since "
            f"{family.name} keeps {family.position_offset} rows for padding; {remedy}"
        )
    try:
        _build(family, config)
    except UserError:
        raise
    except Exception as error:  # whatever the class makes of values that no rule above knows
        raise UserError(
            f"{origin}: {family.config_class.__name__}'s model cannot be built from it ({type(error).__name__}: "
            f"{one_line(error)}); " + ("copy the model's own file again" if remedy == _OWN else "put other values there")
        ) from None


def check_values(family: Family, config: PretrainedConfig, origin: str, remedy: str = _OWN) -> None:
    """Refuse a configuration one of whose values is of another kind than what the class computes with.

    Raises UserError, which begins with `origin`, naming the key.
    """
    for key, value, expected in _faults(family, config):
        key = type(config).attribute_map.get(key, key)
        raise UserError(f"{origin}: {key}: {expected} is expected, and the value is {value!r}; {remedy}")


def _faults(family: Family, config: PretrainedConfig) -> Iterator[tuple[str, Any, str]]:
    """Yield what is wrong: the key, its value, and what is expected of it. What follows a fault may rest on it."""
    yield from _not_whole(config, dict.fromkeys(_size_keys(family, config), _MOST))
    for key in depth_keys(family.config_class):
        if getattr(config, key) > MOST_LAYERS:
            yield key, getattr(config, key), f"a number up to {MOST_LAYERS}"
    drawn = ["initializer_range"] if has_key(family.config_class, "initializer_range") else []
    for key in (*family.dropout, *drawn, *(key for key in family.kept if key.endswith(_EPSILONS))):
        value, most = getattr(config, key, None), 1 if key in family.dropout else math.inf
        if not _number(value) or not 0 <= value <= most:
            yield key, value, "a number from 0" + ("" if most == math.inf else f" to {most}")
    for key in (*family.factors, *family.caps):
        value = getattr(config, key)
        if not (value is None and key in family.caps) and not (_number(value) and 1 / _MOST <= value <= _MOST):
            yield key, value, f"{'null or ' * (key in family.caps)}a number from {1 / _MOST:.2g} to {_MOST}"
    if abs(config.pad_token_id or 0) > _MOST_ID:
        yield "pad_token_id", config.pad_token_id, "an id of the vocabulary"
    activation = getattr(config, family.activation_key)
    if not isinstance(activation, str) or activation not in ACT2FN:
        yield family.activation_key, activation, "an activation that transformers knows, for instance gelu or silu,"
    if has_key(family.config_class, "relative_attention_num_buckets"):
        buckets, most = config.relative_attention_num_buckets, config.relative_attention_max_distance
        # An encoder has one half of them for what stands before a token, and one half of those for each distance by itself.
        if not _whole(buckets, _MOST) or buckets < 4:
            yield "relative_attention_num_buckets", buckets, f"a whole number from 4 to {_MOST}"
        if not _whole(most, _MOST) or most <= buckets // 2:
            yield "relative_attention_max_distance", most, f"a whole number above half of the {buckets} buckets"
    if has_key(family.config_class, "num_experts"):
        yield from _expert_faults(family, config)
    if family.rotary:
        yield from _rotary_faults(config)
        yield from _window_faults(config)
        if hasattr(type(config), "no_rope_layers") and (
            set(config.no_rope_layers) - {0, 1} or len(config.no_rope_layers) != config.num_hidden_layers
        ):
            yield "no_rope_layers", config.no_rope_layers, f"a list of {config.num_hidden_layers} entries, each 0 or 1,"


def _size_keys(family: Family, config: PretrainedConfig) -> list[str]:
    known = family.config_class
    keys = ["hidden_size", *depth_keys(known), "num_attention_heads", family.intermediate_key, "vocab_size"]
    keys += ["max_position_embeddings"] if has_key(known, "max_position_embeddings") else []
    keys += ["num_key_value_heads"] if hasattr(known, "num_key_value_heads") else []
    keys += [key for key in (*LATENT_KEYS, "qk_rope_head_dim") if has_key(known, key)]
    # Of a class whose own is none (Mixtral's) heads share the hidden size.
    none = getattr(config, "head_dim", None) is None and getattr(known, "head_dim", 0) is None
    own = "head_dim" in known.attribute_map or (family.grouped and hasattr(config, "head_dim"))
    keys += ["head_dim"] if own and not none else []
    keys += ["type_vocab_size"] if "type_vocab_size" in family.kept else []
    # GPT-2's class makes four times the hidden size of a null, and queries may do without a latent.
    return [key for key in keys if key not in ("n_inner", "q_lora_rank") or getattr(config, key, None) is not None]


def _not_whole(config: PretrainedConfig, limits: Mapping[str, int]) -> Iterator[tuple[str, Any, str]]:
    for key, most in limits.items():
        value = getattr(config, key, None)
        if not _whole(value, most):
            yield key, value, f"a whole number from 1 to {most}"


def _expert_faults(family: Family, config: PretrainedConfig) -> Iterator[tuple[str, Any, str]]:
    known = [config_key(family.config_class, key) for key in (*EXPERT_KEYS, *GROUP_KEYS) if has_key(family.config_class, key)]
    yield from _not_whole(config, {key: _MOST if key.endswith("size") else MOST_EXPERTS for key in known})
    count = config_key(family.config_class, "num_experts")
    experts, chosen = getattr(config, count), config.num_experts_per_tok
    if chosen > experts:
        yield "num_experts_per_tok", chosen, f"a number up to {count} {experts}"
    if hasattr(family.config_class, "n_group"):
        groups, held = config.n_group, config.topk_group * (experts // config.n_group)
        # The two highest scores of a group count.
        if experts % groups or experts < 2 * groups:
            yield "n_group", groups, f"a number of equal groups of at least two of the {experts} experts"
        elif config.topk_group > groups:
            yield "topk_group", config.topk_group, f"a number up to n_group {groups}"
        elif chosen > held:
            yield "num_experts_per_tok", chosen, f"a number up to the {held} experts of topk_group {config.topk_group} groups"
    if hasattr(family.config_class, "first_k_dense_replace"):
        dense = config.first_k_dense_replace
        if dense != 0 and not _whole(dense, MOST_LAYERS):
            yield "first_k_dense_replace", dense, f"a whole number from 0 to {MOST_LAYERS}"
    if hasattr(family.config_class, "mlp_only_layers"):
        dense = config.mlp_only_layers
        if not isinstance(dense, list) or not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in dense):
            yield "mlp_only_layers", dense, "a list of numbers of layers"
        yield from _not_whole(config, {"decoder_sparse_step": MOST_LAYERS})


def _rotary_faults(config: PretrainedConfig) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(config.rope_parameters, Mapping):
        yield "rope_parameters", config.rope_parameters, "a mapping"
    for name, rope in rope_sets(config).items():
        if rope.get("rope_type") not in _ROPES:
            yield f"{name}.rope_type", rope.get("rope_type"), f"one of {', '.join(_ROPES)}"
        for key, value in rope.items():
            for number in value if isinstance(value, list) and key in _PAIR_LISTS else [value]:
                # A type, a switch or nothing; all else is computed with.
                if not (key in ("rope_type", "type", "truncate") or value is None or _number(number)):
                    yield f"{name}.{key}", value, "a number"
    head_dim = sizes_of(config).head_dim
    if getattr(config, "qk_rope_head_dim", head_dim) != head_dim:
        yield "head_dim", head_dim, f"qk_rope_head_dim {config.qk_rope_head_dim}, as the class takes it,"
    if head_dim > _MOST_HEAD_DIM:
        yield "head_dim", head_dim, f"a number up to {_MOST_HEAD_DIM}"
    for name, rope in rope_sets(config).items():
        share = rope.get("partial_rotary_factor")
        share = 1.0 if share is None else share
        turned = int(head_dim * share)
        if share != 1 and (not 0 < share < 1 or turned < 2 or turned % 2):
            yield f"{name}.partial_rotary_factor", share, f"a number up to 1 that makes an even share of head_dim {head_dim}"
        pairs = turned // 2
        for key, value in rope.items():
            if key in _PAIR_LISTS and isinstance(value, list) and len(value) != pairs:
                yield f"{name}.{key}", value, f"a list of {pairs} numbers, one for each pair of a head's channels,"


def _window_faults(config: PretrainedConfig) -> Iterator[tuple[str, Any, str]]:
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        # Qwen-MoE's classes write 0 for none.
        window = window or None
    if hasattr(type(config), "local_attention"):
        # ModernBERT's, of which a token sees one half before it and one behind.
        yield from _not_whole(config, {"local_attention": _MOST_ID})
    elif window is not None and not _whole(window, _MOST_ID):
        yield "sliding_window", window, f"null or a whole number from 1 to {_MOST_ID}"
    if hasattr(type(config), "layer_types"):
        types = config.layer_types
        if set(types) - set(_ATTENTION) or len(types) != config.num_hidden_layers:
            expected = f"a list of {config.num_hidden_layers} entries, each {' or '.join(_ATTENTION)},"
            yield "layer_types", types, expected
        if window is None and _ATTENTION[1] in types:
            yield "sliding_window", window, f"a whole number, since layer_types names {_ATTENTION[1]},"


def _build(family: Family, config: PretrainedConfig) -> None:
    """Build what tells of the whole: all layers of a kind have the same tensors, but for the first."""
    graph, chosen = family.graph(config), []
    layers = graph.layers
    for numbers in graph.ranges:
        kinds = {repr(layers[number].form): number for number in reversed(numbers)}
        # The first may lack what all others have.
        chosen += sorted({*numbers[:2], *kinds.values()})
    check_parameters(family, of_layers(family, config, chosen))
    if family.rotary:
        frequencies = rotary_module(family, config)
        scalings = [value for key, value in vars(frequencies).items() if key.endswith("attention_scaling")]
        found = [*frequencies.buffers(), *(torch.tensor(scaling, dtype=torch.float64) for scaling in scalings)]
        if not all(bool(torch.isfinite(values).all()) for values in found):
            raise ValueError(f"rope_parameters {config.rope_parameters} make frequencies that are no numbers")


def _whole(value: Any, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
