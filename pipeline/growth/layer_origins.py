"""Where each layer of a target comes from, in each of its stacks."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.common.errors import UserError
from pipeline.families.graph import Model
from pipeline.operators import DEPTH, Origin
from pipeline.recipe import GrowthConfig


def layer_origins(growth: GrowthConfig, source: Model, depths: Sequence[int]) -> list[Origin]:
    """Return the origins of the target's layers, `depths` of them in each stack, numbered over all stacks.

    Raises UserError where a list does not fit, or takes a layer of another stack.
    """
    operator, options = DEPTH[growth.depth], growth.model_dump()
    if operator.all_stacks:
        origins = operator.origins(len(source.layers), sum(depths), options)
        _refuse_other_stacks(origins, source, depths)
        return origins
    return [
        origin if origin.source is None else replace(origin, source=numbers.start + origin.source)
        for numbers, depth in zip(source.ranges, depths, strict=True)
        for origin in operator.origins(len(numbers), depth, options)
    ]


def _refuse_other_stacks(origins: Sequence[Origin], source: Model, depths: Sequence[int]) -> None:
    layer = 0
    for numbers, depth in zip(source.ranges, depths, strict=True):
        own = origins[layer : layer + depth]
        named = [one.source for one in own] + [number for one in own for number, _ in one.average]
        others = [number for number in named if number not in numbers]
        if others:
            raise UserError(
                f"growth.layers: target layers {layer} to {layer + depth - 1} are of one stack, and the source's layer "
                f"{others[0]} is of another; name {numbers.start} to {numbers.stop - 1} there (the encoder's layers come first)"
            )
        layer += depth
