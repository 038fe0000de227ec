"""A grown tensor: computed by row range from the source's rows, on any process, the same bits everywhere."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from pipeline.common import keyed
from pipeline.growth.index_map import INIT, MEAN, MEAN_OF_SOME, SMALL, ZERO, AxisIndexMap, IndexRun, product
from pipeline.growth.state import Blocks, Constant, Rows
from pipeline.growth.streaming import CHUNK_ELEMENTS, passed_on, row_chunks

_ZEROS = Constant((), 0.0)


class MeasuredTensor:
    """A source tensor that knows its statistics, taken when first asked for and in an order that depends on nothing but it."""

    def __init__(self, tensor: Rows) -> None:
        self.shape = tensor.shape
        self.rows = tensor.rows
        self.tensor = tensor

    @cached_property
    def mean_row(self) -> torch.Tensor:
        """The mean over the rows, float64 [1, columns]."""
        total = sum(rows.reshape(len(rows), -1).double().numpy().sum(axis=0) for _, rows in row_chunks(self, CHUNK_ELEMENTS))
        return torch.from_numpy(total / self.shape[0])[None]

    @cached_property
    def std(self) -> float:
        """The standard deviation over all elements."""
        size = math.prod(self.shape)
        sums, squares = [], []
        for _, rows in row_chunks(self, CHUNK_ELEMENTS):
            values = rows.double().numpy()
            sums.append(float(values.sum()))
            squares.append(float(np.square(values).sum()))
        mean = math.fsum(sums) / size
        return math.sqrt(max(0.0, math.fsum(squares) / size - mean * mean) * size / (size - 1))


@dataclass(frozen=True, slots=True)
class Noise:
    """Random values on copies, as a share of the source tensor's standard deviation (`split`: of the weight)."""

    kind: Literal["new", "paired", "split"]
    """`new`: on new rows and columns (NAI 3.3.1); the others on inputs of copies, so that their sum stays."""
    share: float
    pair_axis: int
    """The storage axis that is summed over."""


class GrownTensor:
    """A target tensor made of a source tensor's rows and columns.

    W'[j, i] = W[g(j), g(i)] * scale(j) * scale(i) where both sides copy. Elsewhere one code decides:
    zeros before the model's own initialization, before small values, before the mean, of all rows or of some.
    """

    def __init__(
        self,
        key: tuple[object, ...],
        own: MeasuredTensor,
        following: MeasuredTensor,
        maps: Sequence[AxisIndexMap],
        *,
        dtype: torch.dtype,
        init: Blocks = _ZEROS,
        small: float = 0.0,
        noise: Noise | None = None,
        shrink: float = 1.0,
    ) -> None:
        """`own` and `following` are the source's tensors of this layer and the next; `key` names the random values.

        Below 1, `shrink` multiplies copies, and the model's own initialization is added to them.
        """
        self.shape = tuple(map(len, maps))
        self.key, self.own, self.following = key, own, following
        self.row_map, self.column_map = maps[0], product(maps[1:], own.shape[1:])
        self._dtype, self._init, self._small, self._noise, self._shrink = dtype, init, small, noise, shrink

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) in the plan's dtype."""
        if (stored := self.passed_on) is not None:
            return stored[start:stop].to(self._dtype)
        if self._is_copy:
            return self.own.rows(start, stop).to(self._dtype)
        block = torch.empty(stop - start, len(self.column_map), dtype=self._dtype)
        for run in self.row_map.runs:
            first, last = max(run.start, start), min(run.stop, stop)
            if first < last:
                self._fill(block[first - start : last - start], run, first, last)
        if self._noise is not None:
            self._disturb(self._noise, block, start, stop)
        return block.reshape(stop - start, *self.shape[1:])

    @property
    def passed_on(self) -> torch.Tensor | None:
        """The stored tensor that this one is, where nothing is computed."""
        return passed_on(self.own.tensor) if self._is_copy else None

    @property
    def _is_copy(self) -> bool:
        return self.row_map.is_identity and self.column_map.is_identity

    def rows_of(self, following: bool) -> torch.Tensor:
        """Return the row of `own`, or of `following`, that each target row is read from; -1 for none."""
        columns = self.column_map
        read = (columns.indices >= 0) | (columns.indices == MEAN)
        none = torch.zeros(1, dtype=torch.bool)
        next_row = none if self.row_map.next_layer is None else self.row_map.next_layer
        next_column = none if columns.next_layer is None else columns.next_layer
        # A row of the next layer is whole of it; of a row of this layer, some columns may be.
        asked = next_row | bool((read & next_column).any()) if following else ~next_row & bool((read & ~next_column).any())
        copied = (self.row_map.indices >= 0) & bool(read.any())
        return torch.where(copied & asked, self.row_map.indices, -1)

    def rows_of_statistics(self) -> torch.Tensor:
        """Return which target rows ask for the mean or the standard deviation of all of `own`, or for the mean of some rows."""
        rows = self.row_map.indices
        if len(self.shape) > 1 and (
            SMALL in self.column_map.codes or (self._noise is not None and self._noise.kind != "split")
        ):
            return torch.ones(len(rows), dtype=torch.bool)
        return (rows == MEAN) | (rows == MEAN_OF_SOME) | ((rows == SMALL) & (len(self.shape) > 1))

    def _fill(self, block: torch.Tensor, run: IndexRun, first: int, last: int) -> None:
        """Write target rows [first, last), which lie in one run."""
        read: dict[bool, torch.Tensor] = {}
        for column in self.column_map.runs:
            columns = block[:, column.start : column.stop]
            codes = {run.code, column.code}
            if ZERO in codes:
                columns.zero_()
            elif INIT in codes:
                columns.copy_(self._init.block(first, last, column.start, column.stop))
            elif SMALL in codes:
                columns.copy_(self._small_values(first, last, column))
            else:
                following = run.next_layer or column.next_layer
                if following not in read:
                    read[following] = self._read(self.following if following else self.own, run, first, last)
                scale = run.scale if isinstance(run.scale, float) else run.scale[first - run.start : last - run.start, None]
                _scaled(_columns(read[following], column), scale, column.scale, columns)
                if self._shrink != 1.0:
                    # W' = shrink pad(W) + I: where pad(W) is zero, above, I alone.
                    columns.mul_(self._shrink).add_(self._init.block(first, last, column.start, column.stop))

    def _read(self, source: MeasuredTensor, run: IndexRun, first: int, last: int) -> torch.Tensor:
        """The source rows that target rows [first, last) of a run copy."""
        if run.code == MEAN:
            return self.own.mean_row.to(self._dtype).expand(last - first, -1)
        if run.code == MEAN_OF_SOME:
            sources, begins = self.row_map.mean_sources.of(first, last)
            values = _gathered(source, sources).reshape(len(sources), -1).double().numpy()
            # Each row is summed by itself, whatever rows it is asked for with.
            sums = torch.from_numpy(np.add.reduceat(values, begins.numpy(), axis=0))
            counts = torch.diff(begins, append=torch.tensor([len(sources)]))
            return (sums / counts[:, None]).to(self._dtype)
        if isinstance(run.indices, slice):
            begin = run.indices.start + first - run.start
            rows = source.rows(begin, begin + last - first)
        else:
            rows = _gathered(source, run.indices[first - run.start : last - run.start])
        return rows.reshape(last - first, -1).to(self._dtype)

    def _small_values(self, first: int, last: int, column: IndexRun) -> torch.Tensor:
        if len(self.shape) == 1:
            return torch.zeros(last - first, 1)
        drawn = keyed.normal_block(self.key, (first, last), (column.start, column.stop), len(self.column_map))
        return torch.from_numpy(drawn).double().mul_(self._small * self.own.std)

    def _disturb(self, noise: Noise, block: torch.Tensor, start: int, stop: int) -> None:
        """Add the noise to rows [start, stop), as if it had been there before the normalization by 1/C."""
        rows, columns = self.row_map, self.column_map
        copied = (rows.indices[start:stop, None] >= 0) & (columns.indices >= 0)
        if noise.kind == "new":
            new = rows.repeats[start:stop, None] if rows.repeats is not None else torch.zeros(stop - start, 1, dtype=torch.bool)
            copied &= new | columns.repeats if columns.repeats is not None else new
            drawn = keyed.normal_block(self.key, (start, stop), (0, len(columns)), len(columns))
            values = torch.from_numpy(drawn).double()
        else:
            values = self._paired_values(noise, start, stop)
        # In place, and in this order: each product is rounded, and the grown weights are the same bits everywhere.
        if noise.kind == "split":
            block.mul_(values.mul_(noise.share * copied).add_(1.0).to(block.dtype))
            return
        values.mul_(copied)
        scale = (1.0 if rows.scale is None else rows.scale[start:stop, None]) * (
            1.0 if columns.scale is None else columns.scale
        )
        if isinstance(scale, torch.Tensor):
            values.mul_(scale)
        block.add_(values.mul_(noise.share * self.own.std).to(block.dtype))

    def _paired_values(self, noise: Noise, start: int, stop: int) -> torch.Tensor:
        """+e at one of two paired inputs and -e at the other: one draw for both, addressed by the first of them."""
        draw = keyed.normal if noise.kind == "paired" else _symmetric_uniform
        width = len(self.column_map)
        if noise.pair_axis == 1:
            first, sign = self.column_map.pairs
            drawn = torch.from_numpy(draw(self.key, start * width, (stop - start) * width)).reshape(-1, width)
            return drawn.double()[:, first].mul_(sign)
        first, sign = self.row_map.pairs
        values = torch.zeros(stop - start, width, dtype=torch.float64)
        followed = (first[start + 1 : stop] - first[start : stop - 1] == 1).nonzero().reshape(-1)
        breaks = sorted(set(range(1, stop - start)) - {int(i) + 1 for i in followed})
        for begin, end in itertools.pairwise([0, *breaks, stop - start]):
            drawn = torch.from_numpy(draw(self.key, int(first[start + begin]) * width, (end - begin) * width))
            values[begin:end] = drawn.reshape(-1, width) * sign[start + begin : start + end, None]
        return values


def _gathered(source: MeasuredTensor, indices: torch.Tensor) -> torch.Tensor:
    """The source's rows of these indices; only those are read, neighbours at once."""
    wanted, places = indices.unique(return_inverse=True)
    stretches = torch.tensor_split(wanted, (wanted.diff() != 1).nonzero().reshape(-1) + 1)
    return torch.cat([source.rows(int(part[0]), int(part[-1]) + 1) for part in stretches]).index_select(0, places)


def _columns(values: torch.Tensor, run: IndexRun) -> torch.Tensor:
    """The source columns that a run of target columns copies."""
    if run.code == MEAN:
        # numpy sums each row by itself, whatever rows it is given beside it.
        mean = np.add.reduce(values.double().numpy(), axis=1) / values.shape[1]
        return torch.from_numpy(mean)[:, None].to(values.dtype).expand(-1, run.stop - run.start)
    if isinstance(run.indices, slice):
        return values[:, run.indices]
    return values.index_select(1, run.indices)  # several times as fast as indexing by a tensor


def _scaled(values: torch.Tensor, rows: float | torch.Tensor, columns: float | torch.Tensor, out: torch.Tensor) -> None:
    """Write values * rows * columns into `out` in one pass where the scales allow it."""
    if isinstance(rows, float) and isinstance(columns, float):
        if rows * columns == 1.0:
            out.copy_(values)
        else:
            torch.mul(values, rows * columns, out=out)
        return
    torch.mul(values, columns if isinstance(columns, float) else columns.to(values.dtype), out=out)
    out.mul_(rows if isinstance(rows, float) else rows.to(values.dtype))


def _symmetric_uniform(key: tuple[object, ...], start: int, count: int) -> np.ndarray:
    return 2.0 * keyed.uniform(key, start, count) - 1.0
