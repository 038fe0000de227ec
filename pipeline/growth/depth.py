"""Depth operators: which source layer each target layer copies, and which of them write nothing at first."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerOrigin:
    """Where a target layer comes from."""

    source: int
    silent: bool = False
    """The output projections are zero, so that the layer adds nothing to the residual stream."""


def layer_origins(source_layers: int, target_layers: int, operator: str) -> list[LayerOrigin]:
    """Return each target layer's origin under a depth operator."""
    return _OPERATORS[operator](source_layers, target_layers)


def _stack(source: int, target: int) -> list[LayerOrigin]:
    """bert2BERT algorithm 1, lines 3-7: the whole stack k times, then its top L_t - k L_s layers."""
    whole = target // source * source
    rest = target - whole
    return [LayerOrigin(i % source) for i in range(whole)] + [LayerOrigin(source - rest + i) for i in range(rest)]


def _last_layer(source: int, target: int) -> list[LayerOrigin]:
    """NAI algorithm 1: copies of the last layer on top, their output projections zero."""
    return [LayerOrigin(min(i, source - 1), silent=i >= source) for i in range(target)]


_OPERATORS = {"stack": _stack, "last_layer": _last_layer}


def adds_only_silent_layers(origins: list[LayerOrigin]) -> bool:
    """Whether the source's stack stands unchanged below layers that write nothing."""
    own = [origin.source for origin in origins if not origin.silent]
    return own == list(range(len(own)))
