"""A state: named tensors that can be read by row range, so that any process can read any piece of any of them."""

from collections.abc import Mapping
from typing import Protocol

import torch


class Rows(Protocol):
    """One tensor of a state. Rows are slices along the first storage axis."""

    shape: tuple[int, ...]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32 or wider."""
        ...


State = Mapping[str, Rows]
"""A model's tensors by name."""


def flat(tensor: Rows, start: int, stop: int) -> torch.Tensor:
    """Return elements [start, stop) of the tensor flattened row-major, reading whole rows and cutting the ragged ends."""
    width = 1
    for size in tensor.shape[1:]:
        width *= size
    first, last = start // width, -(-stop // width)
    return tensor.rows(first, last).reshape(-1)[start - first * width : stop - first * width]
