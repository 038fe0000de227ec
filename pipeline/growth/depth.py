"""Depth operators: which source layer each target layer copies, and which of them write nothing at first."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from data_prep.errors import UserError
from pipeline.recipe import GrowthConfig


@dataclass(frozen=True, slots=True)
class LayerOrigin:
    """Where a target layer comes from."""

    source: int | None
    """The source layer; None for the model's own initialization."""
    silent: bool = False
    """The output projections are zero, so that the layer adds nothing to the residual stream."""
    added: bool = False
    """The source has no layer in this place: a repetition, or a layer of its own."""


def layer_origins(source_layers: int, target_layers: int, growth: GrowthConfig) -> list[LayerOrigin]:
    """Return each target layer's origin; raises UserError for a `list` that does not fit."""
    if growth.depth == "list":
        return _listed(source_layers, target_layers, growth.layers)
    return _OPERATORS[growth.depth](source_layers, target_layers)


def _stack(source: int, target: int) -> list[LayerOrigin]:
    """bert2BERT algorithm 1, lines 3-7: the whole stack k times, then its top L_t - k L_s layers."""
    whole = target // source * source
    rest = target - whole
    origins = [i % source for i in range(whole)] + [source - rest + i for i in range(rest)]
    return [LayerOrigin(origin, added=i >= source) for i, origin in enumerate(origins)]


def _last_layer(source: int, target: int) -> list[LayerOrigin]:
    """NAI algorithm 1: copies of the last layer on top, their output projections zero."""
    return [LayerOrigin(min(i, source - 1), silent=i >= source, added=i >= source) for i in range(target)]


def _interleave(source: int, target: int) -> list[LayerOrigin]:
    """LEMON: copies that write nothing right after the layer they copy, spread evenly over the stack."""
    origins = [i * source // target for i in range(target)]
    repeats = [False, *(before == here for before, here in itertools.pairwise(origins))]
    return [LayerOrigin(origin, silent=again, added=again) for origin, again in zip(origins, repeats, strict=True)]


def _random(source: int, target: int) -> list[LayerOrigin]:
    """DirectCopy: new top layers at the model's own initialization."""
    return [LayerOrigin(i if i < source else None, added=i >= source) for i in range(target)]


def _listed(source: int, target: int, layers: list[int]) -> list[LayerOrigin]:
    """Any list of source layers (G_stack, SOLAR); each layer's first place is its own, the others are added."""
    if len(layers) != target:
        raise UserError(
            f"growth.layers: {len(layers)} layers are listed and the target has num_hidden_layers {target}; make them agree"
        )
    beyond = [layer for layer in layers if layer >= source]
    if beyond:
        raise UserError(f"growth.layers: {beyond[0]} is no layer of the source, which has layers 0 to {source - 1}")
    return [LayerOrigin(layer, added=layer in layers[:i]) for i, layer in enumerate(layers)]


_OPERATORS: dict[str, Callable[[int, int], list[LayerOrigin]]] = {
    "stack": _stack,
    "random": _random,
    "last_layer": _last_layer,
    "interleave": _interleave,
}


def adds_only_silent_layers(origins: list[LayerOrigin], source_layers: int) -> bool:
    """Whether the source's stack stands whole and in order among layers that write nothing."""
    return [origin.source for origin in origins if not origin.silent] == list(range(source_layers))
