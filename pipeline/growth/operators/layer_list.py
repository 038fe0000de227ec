"""Layers by a list."""

from collections.abc import Mapping
from typing import Any

from data_prep.errors import UserError
from data_prep.settings import NonNegativeInt
from pipeline.growth.operators.base import DepthOperator, Option, Origin

_LAYERS = Option("layers", list[NonNegativeInt] | None, None, "depth: list: the source layer of each target layer.")
_SILENT = Option(
    "silent",
    list[NonNegativeInt],
    [],
    "depth: list: which target layers, among those that repeat another, add nothing to the residual stream at first.",
    "Repeated layers that add nothing to the residual stream at first, so that they alone can be trained (LLaMA-Pro).",
)


def _origins(source: int, target: int, options: Mapping[str, Any]) -> list[Origin]:
    """Any list of source layers; each layer's first place is its own, the others are added."""
    layers = options["layers"]
    if len(layers) != target:
        raise UserError(f"growth.layers: {len(layers)} layers are listed and the target has {target}; make them agree")
    beyond = [layer for layer in layers if layer >= source]
    if beyond:
        raise UserError(f"growth.layers: {beyond[0]} is no layer of the source, which has layers 0 to {source - 1}")
    origins = [Origin(layer, added=layer in layers[:i], silent=i in options["silent"]) for i, layer in enumerate(layers)]
    wrong = [i for i in options["silent"] if i >= target or not origins[i].added]
    if wrong:
        raise UserError(
            f"growth.silent: target layer {wrong[0]} repeats no layer before it, so that without it the source's own would be "
            "lost; name layers that do"
        )
    return origins


OPERATOR = DepthOperator(
    name="list",
    summary="The layers that the recipe lists, in its order.",
    citation="G_stack (Du et al. 2024); SOLAR (Kim et al. 2023); LLaMA-Pro (Wu et al. 2024), 3.2",
    origins=_origins,
    options=(_LAYERS, _SILENT),
    all_stacks=True,
)
