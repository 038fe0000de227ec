"""How far and by what positions a model attends, where a target says otherwise than its source on purpose."""

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families.base import Family
from pipeline.families.consistency import check_config, check_values
from pipeline.families.rope import ROPE_OF_PAIRS, rope_sets, rotary_module
from pipeline.recipe import TargetConfig
from pipeline.recipe.models import ROTARY_KEYS

_OF_ALL_TYPES = ("rope_theta", "partial_rotary_factor")
"""What a set of rotary parameters keeps where its type changes; all else belongs to a type."""

_ATTENTION = {"factor", "attention_factor"}
_OF_TYPE: dict[str, set[str]] = {
    "default": set(),
    "proportional": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "yarn": {*_ATTENTION, "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "longrope": {*_ATTENTION, "short_factor", "long_factor"},
}
"""The keys that the frequencies of a type are computed from, in addition to those above and the length of pre-training.

Source: transformers.modeling_rope_utils, whose classes only warn of another key and compute without it."""

_ANOTHER = "put another there"

_PRETRAINED = "original_max_position_embeddings"
_ASKS_PRETRAINED = ("yarn", "llama3", "longrope")
"""Types that start from the length that a model was pre-trained at."""


@dataclass(frozen=True, slots=True)
class Change:
    """A key that makes a target attend otherwise than its source."""

    what: str
    """The configuration's keys, and from what to what they change."""
    length: int
    """The longest sequence that nothing changes in."""
    positions: bool
    """Whether it is positions that change, and not a window."""


def window_key(config: PretrainedConfig) -> str | None:
    """Return the key of the number of tokens that layers with a window see; None where the class has no such layers."""
    return next((key for key in ("local_attention", "sliding_window") if hasattr(type(config), key)), None)


def context_keys(config: PretrainedConfig) -> set[str]:
    """Return the keys that a target may change on purpose."""
    keys = ("rope_parameters", _PRETRAINED, window_key(config))
    return {key for key in keys if key is not None and hasattr(type(config), key)}


def context_of(config: PretrainedConfig) -> dict[str, Any]:
    """Return what a configuration says under these keys."""
    return {key: getattr(config, key) for key in sorted(context_keys(config))}


def keep_context(source: PretrainedConfig, config: PretrainedConfig, said: Collection[str]) -> None:
    """Have what a target's file does not say under these keys from the source, and not from the class."""
    words = {"rope_parameters": {"rope_parameters", *ROTARY_KEYS}}
    for key in context_keys(config) & context_keys(source):
        if not words.get(key, {key}) & set(said):
            setattr(config, key, copy.deepcopy(getattr(source, key)))


def set_context(family: Family, source: PretrainedConfig, config: PretrainedConfig, target: TargetConfig, where: str) -> None:
    """Write what a target says of rotary positions and windows into its configuration.

    Raises UserError where the family has none of it, and where its class makes no numbers of it; `where` stands before the
    keys.
    """
    for key in ("sliding_window", "local_attention"):
        if getattr(target, key) is not None:
            _set_window(family, config, key, getattr(target, key), where)
    if target.rope_parameters is not None:
        _set_rotary(family, source, config, target.rope_parameters, where)
        check_rotary(family, source, config, where)
    if any(getattr(target, key) is not None for key in ("sliding_window", "local_attention", "rope_parameters")):
        check_config(family, config, where.rstrip(": ."), _ANOTHER)


def _set_window(family: Family, config: PretrainedConfig, named: str, window: int | str, where: str) -> None:
    key, types = window_key(config), getattr(config, "layer_types", None)
    if key is None:
        raise UserError(f"{where}{named}: {family.name} has no layers with a window; leave it out")
    if key != named:
        raise UserError(f"{where}{named}: {family.name} has {key} in its place; name that")
    if types is not None and "sliding_attention" not in types:
        raise UserError(f"{where}sliding_window: layer_types names no layer of the source that has a window; leave it out")
    if window == "full" and types is not None:
        raise UserError(f"{where}sliding_window: layer_types names the layers with a window, which growth keeps; put a number")
    setattr(config, key, None if window == "full" else window)


def _set_rotary(
    family: Family, source: PretrainedConfig, config: PretrainedConfig, said: Mapping[str, Any], where: str
) -> None:
    if not family.rotary:
        raise UserError(f"{where}rope_parameters: {family.name} has no rotary positions; leave it out")
    types = [key.partition(".")[2] for key in rope_sets(source) if "." in key]
    if types and (wrong := [key for key, value in said.items() if key not in types or not isinstance(value, Mapping)]):
        raise UserError(
            f"{where}rope_parameters.{wrong[0]}: the source has a set of rotary parameters for each type of layer; put the "
            f"keys under {' or '.join(types)}"
        )
    old = source.rope_parameters
    config.rope_parameters = (
        old | {key: _merged(source, old[key], value) for key, value in said.items()} if types else _merged(source, old, said)
    )


def check_rotary(family: Family, source: PretrainedConfig, config: PretrainedConfig, where: str) -> None:
    """Refuse rotary positions of a target that its class does not compute, or that have another form than the source's.

    Raises UserError naming the key; `where` stands before it.
    """
    if not family.rotary or config.rope_parameters == source.rope_parameters:
        return
    check_values(family, config, where.rstrip(": ."), _ANOTHER)
    sets, old = rope_sets(config), rope_sets(source)
    beside = [key for key in config.rope_parameters if f"rope_parameters.{key}" not in sets] if len(sets) > 1 else []
    if sets.keys() != old.keys() or beside:
        raise UserError(
            f"{where}rope_parameters: the source has {' and '.join(old)}; put keys there and nowhere else"
            + (f", not under {beside[0]}" if beside else "")
        )
    for name, rope in sets.items():
        if rope != old[name]:
            _check_keys(old[name], rope, f"{where}{name}")
            _check_numbers(rope, f"{where}{name}")
    try:
        # What a type needs is known to the class alone.
        config.validate_rope()
    except KeyError as error:
        raise UserError(f"{where}rope_parameters: {error.args[0]}; put them there") from None
    except ValueError as error:
        raise UserError(f"{where}rope_parameters: {error}; put what {family.name} computes there") from None


def _check_numbers(rope: Mapping[str, Any], where: str) -> None:
    """Raise UserError for numbers that make no frequencies, of which the classes only warn."""
    fast, slow = rope.get("beta_fast") or 32, rope.get("beta_slow") or 1
    low, high = rope.get("low_freq_factor"), rope.get("high_freq_factor")
    pretrained, factor, scaling = rope.get(_PRETRAINED), rope.get("factor"), rope.get("attention_factor")
    faults = {
        "rope_theta": (rope.get("rope_theta", 1.0) <= 0, "a number above 0"),
        "factor": (factor is not None and factor < 1, "a number from 1"),
        "attention_factor": (scaling is not None and scaling <= 0, "a number above 0"),
        "beta_fast": (fast < slow, f"a number from beta_slow {slow}"),
        "high_freq_factor": (low is not None and high is not None and high <= low, f"a number above low_freq_factor {low}"),
        _PRETRAINED: (
            pretrained is not None and not (isinstance(pretrained, int) and pretrained > 0),
            "a whole number of positions from 1",
        ),
    }
    for key, (wrong, expected) in faults.items():
        if wrong:
            raise UserError(f"{where}.{key}: {expected} is expected, and the value is {rope[key]!r}; put another there")


def _check_keys(old: Mapping[str, Any], said: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a key that the type of positions is not computed from, which would change nothing."""
    kind = said.get("rope_type", said.get("type", old.get("rope_type")))
    if kind not in _OF_TYPE:
        return
    # Other keys of the source's own file are named again where that file is the model of the target's.
    again = old if kind == old.get("rope_type") else ()
    known = {"rope_type", "type", *again, *_OF_ALL_TYPES, *_OF_TYPE[kind], *([_PRETRAINED] if kind in _ASKS_PRETRAINED else [])}
    for key in said:
        if key not in known:
            types = [
                each for each, keys in _OF_TYPE.items() if key in keys or (key == _PRETRAINED and each in _ASKS_PRETRAINED)
            ]
            hint = (
                f"it belongs to rope_type {' or '.join(types)}" if types else f"keys are {', '.join(sorted(known - {'type'}))}"
            )
            raise UserError(f"{where}.{key}: rope_type {kind} has no such key; {hint}")


def _merged(source: PretrainedConfig, old: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return a set of rotary parameters with the keys that a target names in the place of the source's."""
    said = {("rope_type" if key == "type" else key): value for key, value in said.items()}
    kind = said.get("rope_type", old.get("rope_type"))
    kept = old if kind == old.get("rope_type") else {key: old[key] for key in _OF_ALL_TYPES if key in old}
    # A source that was lengthened before says what it was pre-trained at.
    length = old.get(_PRETRAINED) or source.max_position_embeddings
    pretrained = {_PRETRAINED: length} if kind in _ASKS_PRETRAINED else {}
    return pretrained | dict(kept) | said


def context_changes(family: Family, source: PretrainedConfig, target: PretrainedConfig) -> Iterator[Change]:
    """Yield what makes a target attend otherwise than its source."""
    if family.rotary:
        length = _length_kept(family, source, target)
        if length is not None:
            yield Change(", ".join(_differences(source, target)), length, positions=True)
    key, types = window_key(source), getattr(source, "layer_types", None)
    if key is None or not (types is None or "sliding_attention" in types):
        return
    # ModernBERT's class takes the half of what its key says.
    if source.sliding_window != target.sliding_window:
        windows = [config.sliding_window for config in (source, target) if config.sliding_window is not None]
        # A causal window counts the token itself; ModernBERT's half does not.
        length = min(windows) + (family.objective == "mlm")
        yield Change(f"{key} {getattr(source, key)} -> {getattr(target, key)}", length, positions=False)


def _differences(source: PretrainedConfig, target: PretrainedConfig) -> Iterator[str]:
    """Yield the keys of rotary positions that differ, with what they say."""
    sets = rope_sets(source), rope_sets(target)
    for name in dict.fromkeys([*sets[0], *sets[1]]):
        old, new = (each.get(name, {}) for each in sets)
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                yield f"{name}.{key} {old.get(key)} -> {new.get(key)}"
    key = "max_position_embeddings"
    if getattr(source, key) != getattr(target, key):
        yield f"{key} {getattr(source, key)} -> {getattr(target, key)}"


def _length_kept(family: Family, source: PretrainedConfig, target: PretrainedConfig) -> int | None:
    """Return the longest sequence whose positions are turned as the source turns them; None where all of them are.

    Heads of the source's dimension are looked at: pairs of wider ones keep the frequencies of those.
    """
    parameters = source.rope_parameters, target.rope_parameters
    plain = all(rope.get("rope_type") in ROPE_OF_PAIRS for rope in rope_sets(source).values())
    if parameters[0] == parameters[1] and (plain or source.max_position_embeddings == target.max_position_embeddings):
        return None
    changed = copy.deepcopy(source)
    for key in ("rope_parameters", _PRETRAINED, "max_position_embeddings"):
        if hasattr(target, key):
            setattr(changed, key, getattr(target, key))
    pair = [rotary_module(family, config) for config in (source, changed)]
    said = [rope[_PRETRAINED] for config in (source, changed) for rope in rope_sets(config).values() if rope.get(_PRETRAINED)]
    bounds = {source.max_position_embeddings, target.max_position_embeddings, *said}
    # The types that look at the length of a sequence change at one of these.
    for length in sorted({2, *(bound + more for bound in bounds for more in (0, 1))} - {0, 1}):
        for kind in getattr(pair[0], "layer_types", [None]):
            old, new = (_turned(module, length, kind) for module in pair)
            if not torch.equal(old, new):
                # A token alone attends to itself, whatever turns it.
                return length - 1
    return None


def _turned(module: nn.Module, length: int, kind: str | None) -> torch.Tensor:
    """Return what turns the first and last tokens of a sequence of that length: cosines and sines, float64."""
    positions = torch.tensor([[0, 1, length - 1]])
    options = {} if kind is None else {"layer_type": kind}
    return torch.stack(module(torch.zeros(1, dtype=torch.float64), positions, **options))
