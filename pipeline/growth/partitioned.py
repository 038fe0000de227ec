"""Parameters in flat slices, one a rank: their weights, and what an optimizer keeps of each."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.common.heartbeat import beat
from pipeline.growth.state import Rows, default_value


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """Elements [start, stop) of a flattened tensor; a float stands for all of them."""

    start: int
    stop: int
    values: torch.Tensor | float


class PartitionedTensor:
    """A tensor in flat slices, one after the other; reading touches only those that the elements lie in."""

    def __init__(self, shape: tuple[int, ...], slices: list[TensorSlice]) -> None:
        self.shape = shape
        self._width = math.prod(shape[1:])
        self._slices = slices
        self._starts = [each.start for each in slices]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32 or wider; raises IndexError where they are not all the tensor's."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of a tensor of shape {self.shape}")
        return self.flat(start * self._width, stop * self._width).reshape(stop - start, *self.shape[1:])

    def flat(self, first: int, last: int) -> torch.Tensor:
        """Return elements [first, last) of the tensor flattened, as float32."""
        beat()
        values = torch.empty(last - first, dtype=torch.float32)
        number = bisect_right(self._starts, first) - 1
        while number < len(self._slices) and self._slices[number].start < last:
            each = self._slices[number]
            begin, end = max(first, each.start), min(last, each.stop)
            held = each.values
            if isinstance(held, torch.Tensor):
                held = held[begin - each.start : end - each.start]
            values[begin - first : end - first] = held
            number += 1
        return values


class Parameter:
    """One parameter, as far as its slices have been found, rank after rank."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.weights: list[TensorSlice] = []
        self.kept: dict[str, list[TensorSlice]] = {}

    @classmethod
    def whole(cls, tensor: torch.Tensor, state: Mapping[str, torch.Tensor | float] | None = None) -> "Parameter":
        """Return a parameter that lies in one piece."""
        parameter = cls(tensor.shape)
        parameter.add(tensor.detach().flatten(), 0, tensor.numel(), state or {})
        return parameter

    @property
    def end(self) -> int:
        """The number of its elements that have been found."""
        return self.weights[-1].stop if self.weights else 0

    def add(self, weights: torch.Tensor, begin: int, count: int, state: Mapping[str, torch.Tensor | float]) -> None:
        """Take elements [begin, begin + count) of a flat master, and of the state that the optimizer keeps of it."""
        start, stop = self.end, self.end + count
        if count == 0:
            return
        if len(weights) < begin + count:
            raise IndexError(f"a master of {len(weights)} elements where {begin + count} are expected")
        self.weights.append(TensorSlice(start, stop, weights[begin : begin + count]))
        for key, value in state.items():
            # Steps are tensors to torch's AdamW, and whole numbers to DeepSpeed's own.
            values: torch.Tensor | float
            if not isinstance(value, torch.Tensor) or value.dim() == 0:
                values = float(value)
            else:
                values = value.flatten()[begin : begin + count]
                if len(values) != count:
                    raise IndexError(f"{key} of {value.numel()} elements for a master of {len(weights)}")
            self.kept.setdefault(key, []).append(TensorSlice(start, stop, values))

    @property
    def tensor(self) -> PartitionedTensor:
        """Its weights."""
        return PartitionedTensor(self.shape, self.weights)

    @property
    def optimizer_state(self) -> dict[str, Rows | float]:
        """What an optimizer keeps of it, by its own key: a float where it is the same throughout; empty without an optimizer.

        A rank whose master was never stepped may have kept nothing.
        """
        joined: dict[str, Rows | float] = {}
        for key, kept in self.kept.items():
            found = {each.start: each for each in kept}
            missing = default_value(key)
            slices = [found.get(each.start) or TensorSlice(each.start, each.stop, missing) for each in self.weights]
            values = {each.values if isinstance(each.values, float) else None for each in slices}
            alike = values.pop() if len(values) == 1 else None
            joined[key] = PartitionedTensor(self.shape, slices) if alike is None else alike
        return joined
