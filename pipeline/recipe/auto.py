"""What `auto` comes to in a run from small to large: which sizes, for how long, and how each grows.

From runs of one GPT-2 (12 layers x 32, Muon, 25 tokens for each parameter, one schedule over the run), of which those that
repeat the middle block three times (MIDAS), with the optimizer's state, ended lowest with each seed
(docs/results/progressive.md). To begin with a single layer cost more than it brought. Other sizes, horizons and optimizers are
a guess from there.
"""

import math
from collections.abc import Mapping
from typing import Any

from pipeline.growth.operators import DEPTH
from pipeline.recipe.smaller import layer_kinds

GROWS = {"optimizer_state": "grow"}
"""Said of each growth that does not say otherwise: within one run there is a state to grow."""


def auto_sizes(layers: int, enough: int) -> list[int]:
    """Return the depths of the smaller models where the recipe leaves them open: one, two and three quarters of the layers.

    Rounded up, so that no growth more than doubles. `enough` layers have one of each kind that the model has, of most models 1;
    none of the smaller ones has fewer.
    """
    quarters = (max(enough, math.ceil(layers * count / 4)) for count in (1, 2, 3))
    return sorted({depth for depth in quarters if depth < layers})


def auto_shares(sizes: int) -> list[float]:
    """Return the share of the run of each of so many smaller models: .15, or as much as leaves .4 to the model itself.

    The rate's decay, the last .2, so lies wholly within the model's own training.
    """
    return [min(0.15, round(0.6 / sizes, 4))] * sizes


def auto_growth(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    """Return the growth section of a growth: `midas`, of the layers of each kind by themselves where there are several.

    Of several kinds it is a list, unless that comes to the same. Copies of layers have their moments too.
    """
    growth: dict[str, Any] = dict(GROWS)
    old, new = layer_kinds(small), layer_kinds(large)
    if len(new) == len(old):
        return growth
    growth |= {"new_moments": "copied"}
    if not set(new) <= set(old):
        # Refused with the plan, which names the layer.
        return growth | {"depth": "midas"}
    layers = [0] * len(new)
    for kind in set(new):
        own, places = ([layer for layer, each in enumerate(kinds) if each == kind] for kinds in (old, new))
        for place, origin in zip(places, _midas(len(own), len(places)), strict=True):
            layers[place] = own[origin]
    if layers == _midas(len(old), len(new)):
        return growth | {"depth": "midas"}
    return growth | {"depth": "list", "layers": layers}


def _midas(source: int, target: int) -> list[int]:
    """The source layer of each target layer."""
    operator = DEPTH["midas"]
    origins = operator.origins(source, target, {option.name: option.default for option in operator.options})
    return [origin.source for origin in origins]
