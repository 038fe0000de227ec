"""What `auto` comes to in a run from small to large: which sizes, for how long, and how each grows.

Chosen by single runs of one GPT-2 (12 layers x 64, AdamW, one schedule over the run), of which the best, with 1.4 times
scratch's tokens, came to scratch's loss for 55 % of its compute. Where three layers became twelve, active copies (`stack`)
ended .04 nats below silent ones (`interleave`). Other sizes, horizons and optimizers are a guess from there.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.recipe.smaller import layer_kinds

GROWS = {"optimizer_state": "grow"}
"""Said of each growth that does not say otherwise: within one run there is a state to grow."""


def auto_sizes(layers: int, enough: int) -> list[int]:
    """Return the depths of the smaller models where the recipe leaves them open.

    `enough` layers have one of each kind that the model has: of most models 1. These are trained first, for they learn most of
    what the first half of a run teaches and cost least. A quarter of the model's layers stands between, where it is at least
    twice as many, since two smaller growths lose less than one large one.
    """
    depths = [enough, layers // 4] if layers // 4 >= 2 * enough else [enough]
    return [depth for depth in depths if depth < layers]


def auto_shares(sizes: int) -> list[float]:
    """Return the share of the run of each of so many smaller models: .6 of one; of several .5 of the first, .2 of the others.

    At least .3 is left to the model itself, so that the rate's decay, the last .2, lies wholly within its training.
    """
    return [0.6] if sizes == 1 else [0.5, *[round(0.2 / (sizes - 1), 4)] * (sizes - 1)]


def auto_growth(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    """Return the growth section of a growth: `stack`, or a list by which each layer is made of one of its own kind."""
    growth: dict[str, Any] = dict(GROWS)
    old, new = layer_kinds(small), layer_kinds(large)
    if len(new) == len(old):
        return growth
    if len(set(new)) == 1:
        return growth | {"depth": "stack"}
    of_kind = {kind: [layer for layer, each in enumerate(old) if each == kind] for kind in set(new)}
    if not all(of_kind.values()):
        # Refused with the plan, which names the layer.
        return growth | {"depth": "stack"}
    seen = dict.fromkeys(of_kind, 0)
    layers = []
    for kind in new:
        layers.append(of_kind[kind][seen[kind] % len(of_kind[kind])])
        seen[kind] += 1
    return growth | {"depth": "list", "layers": layers}
