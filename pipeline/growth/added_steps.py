"""Which elements a growth added, and for how many more steps they have a separate learning rate.

It is counted separately from Adam's step: copies may keep their source's moments and step, and in a fresh state every element
counts from 0, so that the step does not tell what is new. What is counted is the steps that are left, so that an optimizer
keeps nothing where none are.
"""

from collections.abc import Sequence

import torch

from pipeline.growth.grown_tensor import GrownTensor, MeasuredTensor
from pipeline.growth.index_map import INIT, AxisIndexMap
from pipeline.growth.state import Constant, Rows, as_rows

ADDED_STEPS_LEFT = "added_steps_left"
"""The optimizer's key: the steps after which an element moves by its group's rate; 0 of what no growth added."""


def added_steps_left(
    before: Rows | float,
    source_shape: tuple[int, ...],
    maps: Sequence[AxisIndexMap],
    steps: float,
    made: dict[tuple[int, ...], tuple[AxisIndexMap, ...]],
) -> Rows | float:
    """Return what is left of a tensor grown by these maps: `steps` of new elements, what was left before of all others.

    `made` keeps the maps that this takes, by those of the tensor, for other tensors that have the same.
    """
    if isinstance(before, float) and not any(bool(each.new.any()) for each in maps):
        return before
    key = tuple(map(id, maps))
    if key not in made:
        made[key] = tuple(AxisIndexMap(torch.where(each.new, INIT, each.indices)) for each in maps)
    source = MeasuredTensor(as_rows(before, source_shape))
    shape = tuple(map(len, maps))
    return GrownTensor((), source, source, made[key], dtype=torch.float32, init=Constant(shape, steps))
