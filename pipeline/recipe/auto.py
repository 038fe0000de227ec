"""What `auto` comes to in a run from small to large: which sizes, for how long, and how each grows.

From runs of one GPT-2 (12 layers x 32, Muon, 25 tokens for each parameter, one schedule over the run), of which those that
repeat the middle block three times (MIDAS), with the optimizer's state, ended lowest with each seed
(docs/results/progressive.md). To begin with a single layer cost more than it brought. Other sizes, horizons and optimizers are
a guess from there.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.growth.operators import DEPTH
from pipeline.recipe.smaller import layer_kinds

GROWS = {"optimizer_state": "grow"}
"""Said of each growth that does not say otherwise: within one run there is a state to grow."""


def auto_sizes(layers: int, enough: int) -> list[int]:
    """Return the depths of the smaller models where the recipe leaves them open: one, two and three quarters of the layers.

    `enough` layers have one of each kind that the model has, of most models 1; none of the smaller ones has fewer.
    """
    return sorted({depth for quarters in (1, 2, 3) if (depth := max(enough, layers * quarters // 4)) < layers})


def auto_shares(sizes: int) -> list[float]:
    """Return the share of the run of each of so many smaller models: .15, or as much as leaves .4 to the model itself.

    The rate's decay, the last .2, so lies wholly within the model's own training.
    """
    return [min(0.15, round(0.6 / sizes, 4))] * sizes


def auto_growth(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    """Return the growth section of a growth: `midas`, or a list by which each layer is made of one of its own kind.

    Copies of layers have their moments too.
    """
    growth: dict[str, Any] = dict(GROWS)
    old, new = layer_kinds(small), layer_kinds(large)
    if len(new) == len(old):
        return growth
    growth |= {"new_moments": "copied"}
    origins = DEPTH["midas"].origins(len(old), len(new), {"repeat_scale": 1.0})
    of_kind = {kind: [layer for layer, each in enumerate(old) if each == kind] for kind in set(new)}
    # A kind that the smaller model lacks is refused with the plan, which names the layer.
    if all(old[origin.source] == kind for origin, kind in zip(origins, new, strict=True)) or not all(of_kind.values()):
        return growth | {"depth": "midas"}
    seen = dict.fromkeys(of_kind, 0)
    layers = []
    for kind in new:
        layers.append(of_kind[kind][seen[kind] % len(of_kind[kind])])
        seen[kind] += 1
    return growth | {"depth": "list", "layers": layers}
