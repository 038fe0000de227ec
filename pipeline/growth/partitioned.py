"""Parameters that lie in flat pieces, one a rank: their weights, and what an optimizer keeps of each."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.common.heartbeat import beat
from pipeline.growth.state import Rows, default_value


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements [start, stop) of a flattened tensor; a float stands for all of them."""

    start: int
    stop: int
    values: torch.Tensor | float


class PartitionedTensor:
    """A tensor in flat pieces, one after the other; reading touches only the pieces that the elements lie in."""

    def __init__(self, shape: tuple[int, ...], pieces: list[Piece]) -> None:
        self.shape = shape
        self._width = math.prod(shape[1:])
        self._pieces = pieces
        self._starts = [piece.start for piece in pieces]

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
        while number < len(self._pieces) and self._pieces[number].start < last:
            piece = self._pieces[number]
            begin, end = max(first, piece.start), min(last, piece.stop)
            part = piece.values
            if isinstance(part, torch.Tensor):
                part = part[begin - piece.start : end - piece.start]
            values[begin - first : end - first] = part
            number += 1
        return values


class Parameter:
    """One parameter, as far as its pieces have been found, rank after rank."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.weights: list[Piece] = []
        self.kept: dict[str, list[Piece]] = {}

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
        self.weights.append(Piece(start, stop, weights[begin : begin + count]))
        for key, value in state.items():
            # Steps are tensors to torch's AdamW, and whole numbers to DeepSpeed's own.
            whole = not isinstance(value, torch.Tensor) or value.dim() == 0
            values = float(value) if whole else value.flatten()[begin : begin + count]
            if isinstance(values, torch.Tensor) and len(values) != count:
                raise IndexError(f"{key} of {value.numel()} elements for a master of {len(weights)}")
            self.kept.setdefault(key, []).append(Piece(start, stop, values))

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
            found = {piece.start: piece for piece in kept}
            pieces = [found.get(piece.start) or Piece(piece.start, piece.stop, default_value(key)) for piece in self.weights]
            values = {piece.values for piece in pieces if isinstance(piece.values, float)}
            alike = len(values) == 1 and all(isinstance(piece.values, float) for piece in pieces)
            joined[key] = values.pop() if alike else PartitionedTensor(self.shape, pieces)
        return joined
