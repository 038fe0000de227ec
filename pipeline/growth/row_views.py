"""Tensors read as slices, repetitions, draws or mixtures of other tensors, a few rows at a time."""

import math
from collections.abc import Sequence

import torch

from pipeline.common import keyed
from pipeline.growth.grown_tensor import MeasuredTensor
from pipeline.growth.state import Rows


class TensorBlock:
    """Some rows and columns of a tensor, times a factor."""

    def __init__(self, tensor: Rows, rows: slice, columns: slice, factor: float = 1.0) -> None:
        self.shape = (rows.stop - rows.start, columns.stop - columns.start)
        self.tensor, self._first, self._columns, self._factor = tensor, rows.start, columns, factor

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        values = self.tensor.rows(self._first + start, self._first + stop)[:, self._columns]
        return values if self._factor == 1.0 else values * self._factor


class RepeatedRows:
    """Each row of a tensor several times, one after the other."""

    def __init__(self, tensor: Rows, times: int) -> None:
        self.shape = (tensor.shape[0] * times, *tensor.shape[1:])
        self.tensor, self._times = tensor, times

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        first, last = start // self._times, -(-stop // self._times)
        whole = self.tensor.rows(first, last).repeat_interleave(self._times, dim=0)
        return whole[start - first * self._times : stop - first * self._times]


class DrawnRows:
    """Normal values with the mean and the deviation of a tensor, times a factor."""

    def __init__(self, shape: tuple[int, ...], like: MeasuredTensor, factor: float, key: tuple[object, ...]) -> None:
        self.shape = shape
        self._like, self._factor, self._key = like, factor, key

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        width = math.prod(self.shape[1:])
        drawn = torch.from_numpy(keyed.normal_block(self._key, (start, stop), (0, width), width)).double()
        return drawn.mul_(self._like.std).add_(self._like.mean_row.mean()).mul_(self._factor)


class Replaced:
    """A tensor some of whose indices along an axis are another's."""

    def __init__(self, tensor: Rows, other: Rows, where: torch.Tensor, axis: int) -> None:
        """`where` says of each index of the axis whether it is the other's."""
        self.shape = tensor.shape
        self.tensor, self.other, self._where, self._axis = tensor, other, where, axis

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        values = self.tensor.rows(start, stop)
        where = self._where[start:stop] if self._axis == 0 else self._where
        shape = [-1 if axis == self._axis else 1 for axis in range(values.dim())]
        return torch.where(where.view(shape), self.other.rows(start, stop).to(values.dtype), values)


class AveragedRows:
    """The weighted sum of tensors of one shape, in float64."""

    def __init__(self, terms: Sequence[tuple[Rows, float]]) -> None:
        """`terms` are tensors and their weights."""
        self.shape = terms[0][0].shape
        self.terms = terms

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        read = [tensor.rows(start, stop) for tensor, _ in self.terms]
        total = torch.zeros(read[0].shape, dtype=torch.float64, device=read[0].device)
        for rows, (_, weight) in zip(read, self.terms, strict=True):
            total.add_(rows.double(), alpha=weight)
        return total


def drawn_units(share: float, units: int, key: tuple[object, ...]) -> torch.Tensor:
    """Return a mask of so many of the units, rounded to a whole number, drawn without replacement."""
    order = torch.from_numpy(keyed.uniform(key, 0, units)).argsort(stable=True)
    chosen = torch.zeros(units, dtype=torch.bool)
    chosen[order[: round(share * units)]] = True
    return chosen
