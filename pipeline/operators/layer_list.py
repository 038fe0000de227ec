"""Layers by a list."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator

from pipeline.common.config import NonNegativeInt
from pipeline.common.errors import UserError
from pipeline.operators.base import DepthOperator, Option, Options, Origin
from pipeline.operators.options import REPEAT_SCALE, scaled_repeats


def _entry(said: Any) -> Any:
    """A layer's number, or layers with weights; a certificate, being JSON, holds numbers of layers as strings."""
    if isinstance(said, dict) and said and all(str(layer).isdigit() for layer in said):
        weights = list(said.values())
        if all(isinstance(each, int | float) and not isinstance(each, bool) and 0 < each < math.inf for each in weights):
            return {int(layer): float(weight) for layer, weight in said.items()}
    elif isinstance(said, int) and not isinstance(said, bool) and said >= 0:
        return said
    raise ValueError("the number of a layer is expected, or a mapping of layers to weights above 0, as {3: 0.5, 4: 0.5}")


_LAYERS = Option(
    "layers",
    list[Annotated[Any, BeforeValidator(_entry)]] | None,
    None,
    "depth: list, which needs it: the source layer of each target layer; `{3: 0.5, 4: 0.5}` is the average of several, by "
    "weights of sum 1.",
)
_SILENT = Option(
    "silent",
    list[NonNegativeInt],
    [],
    "depth: list: which target layers, among those that repeat another, add nothing to the residual stream at first.",
    "Repeated layers that add nothing to the residual stream at first, so that they alone can be trained (LLaMA-Pro).",
)


def _origins(source: int, target: int, options: Options) -> list[Origin]:
    """Any list of source layers and averages of them; each layer's first place is its own, the others are added."""
    layers = options["layers"]
    if len(layers) != target:
        raise UserError(
            f"growth.layers: {len(layers)} layers are listed and the target has {target}; make them agree, by "
            f"target.num_hidden_layers or by the list"
        )
    origins: list[Origin] = []
    for number, said in enumerate(layers):
        weights = said if isinstance(said, dict) else {said: 1.0}
        beyond = [layer for layer in weights if layer >= source]
        if beyond:
            raise UserError(f"growth.layers: {beyond[0]} is no layer of the source, which has layers 0 to {source - 1}")
        if not math.isclose(sum(weights.values()), 1.0, rel_tol=1e-6):
            raise UserError(
                f"growth.layers: the weights of target layer {number} sum to {sum(weights.values()):g}; make it 1, or the "
                "layer is no average"
            )
        most = max(weights, key=lambda layer: weights[layer])
        # An average is no layer of the source's, and has no place there.
        added = len(weights) > 1 or any(origin.source == most and not origin.average for origin in origins)
        average = tuple(sorted(weights.items())) if len(weights) > 1 else ()
        origins.append(Origin(most, added=added, zero_output=number in options["silent"], average=average))
    wrong = [i for i in options["silent"] if i >= target or not origins[i].added]
    if wrong:
        raise UserError(
            f"growth.silent: target layer {wrong[0]} repeats no layer before it, so that without it the source's own would be "
            "lost; name layers that do"
        )
    return scaled_repeats(origins, options)


OPERATOR = DepthOperator(
    name="list",
    summary="The layers that the recipe lists, in its order.",
    citation="G_stack (Du et al. 2024); SOLAR (Kim et al. 2023); LLaMA-Pro (Wu et al. 2024), 3.2",
    origins=_origins,
    options=(_LAYERS, _SILENT, REPEAT_SCALE),
    all_stacks=True,
)
