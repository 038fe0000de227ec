"""What `auto` comes to in a run from small to large: which sizes, for how long, and how each grows.

From runs of one GPT-2 (12 layers x 32, Muon, 25 tokens for each parameter, one schedule over the run). In the mean of three
seeds, copies that add nothing at first, in three smaller sizes and with the optimizer's state grown, ended lower than every
other method, MIDAS and StackBERT among them, and the loss does not jump (docs/results/progressive.md). To begin with a single
layer cost more than it brought. At 100 tokens for each parameter, by one seed, no growth came to the loss of training from
scratch, and MIDAS ended lower than these copies. Other sizes, horizons and optimizers are a guess from there.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.recipe.smaller import layer_kinds

GROWS = {"optimizer_state": "grow"}
"""The default of each growth: within one run there is a state to grow."""


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
    """Return the growth section of a growth: by `auto`, or by a list of layers where they are of several kinds.

    In that list new layers, which add nothing at first, are copies of one of the same kind, so that it is as exact.
    """
    growth: dict[str, Any] = dict(GROWS)
    old, new = layer_kinds(small), layer_kinds(large)
    # A kind that the smaller model lacks is refused with the plan, which names the layer.
    if len(new) == len(old) or len(set(new)) == 1 or not set(new) <= set(old):
        return growth
    places = _spread(old, new)
    silent = [place for place, (_, copied) in enumerate(places) if copied]
    return growth | {"depth": "list", "layers": [layer for layer, _ in places], "silent": silent}


def _spread(old: Sequence[Any], new: Sequence[Any]) -> list[tuple[int, bool]]:
    """The old layer of each new one, and whether it is a copy: of the last layer of its kind below.

    The old layers keep their order, each at a place of its kind, and are as near to evenly spread as that allows.
    """
    # By how many old layers have their place: how far they are from even, and what stands at each place.
    best: dict[int, tuple[int, tuple[tuple[int, bool], ...]]] = {0: (0, ())}
    for place, kind in enumerate(new):
        choices: dict[int, list[tuple[int, tuple[tuple[int, bool], ...]]]] = {}
        for count, (far, places) in best.items():
            below = [layer for layer in range(count) if old[layer] == kind]
            if below:
                choices.setdefault(count, []).append((far, (*places, (below[-1], True))))
            if count < len(old) and old[count] == kind:
                even = math.ceil(count * len(new) / len(old))
                choices.setdefault(count + 1, []).append((far + abs(place - even), (*places, (count, False))))
        best = {count: min(each) for count, each in choices.items()}
    return list(best[len(old)][1])
