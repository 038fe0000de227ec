"""Layers by a list."""

from collections.abc import Mapping
from typing import Any

from data_prep.errors import UserError
from data_prep.settings import NonNegativeInt
from pipeline.growth.operators.base import DepthOperator, Option, Origin

_LAYERS = Option("layers", list[NonNegativeInt] | None, None, "depth: list: the source layer of each target layer.")


def _origins(source: int, target: int, options: Mapping[str, Any]) -> list[Origin]:
    """Any list of source layers; each layer's first place is its own, the others are added."""
    layers = options["layers"]
    if len(layers) != target:
        raise UserError(
            f"growth.layers: {len(layers)} layers are listed and the target has num_hidden_layers {target}; make them agree"
        )
    beyond = [layer for layer in layers if layer >= source]
    if beyond:
        raise UserError(f"growth.layers: {beyond[0]} is no layer of the source, which has layers 0 to {source - 1}")
    return [Origin(layer, added=layer in layers[:i]) for i, layer in enumerate(layers)]


OPERATOR = DepthOperator(
    name="list",
    summary="The layers that the recipe lists, in its order.",
    citation="G_stack (Du et al. 2024); SOLAR (Kim et al. 2023)",
    origins=_origins,
    options=(_LAYERS,),
)
