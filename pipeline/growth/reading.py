"""What growing into ZeRO-3 partitions reads: of each stored tensor the rows that a rank's pieces are made of."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pipeline.deepspeed.zero_layout import partition_size
from pipeline.growth.expert_copies import OpposedCopy
from pipeline.growth.fused_parameters import ConcatenatedRows
from pipeline.growth.grown_tensor import GrownTensor, MeasuredTensor
from pipeline.growth.identity_norms import IdentityNorm
from pipeline.growth.initialization import InitializedTensor
from pipeline.growth.positions import StretchedPositions
from pipeline.growth.row_views import AveragedRows, DrawnRows, RepeatedRows, Replaced, TensorBlock
from pipeline.growth.state import Constant, OptimizerState, Rows, Shifted, State, stored_dtype

_NONE, _ALL = -1, -2
"""In place of a row."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes of stored tensors that are read, each row once for all ranks that share a page cache."""

    most: int
    """By the ranks of one page cache, where that is most."""
    total: int


def bytes_read(state: State, optimizer: OptimizerState | None, ranks: int, together: int = 1) -> Reading:
    """Return what `ranks` processes read to fill their pieces of a grown state, and of what an optimizer keeps of it.

    At most: rows count whole, whatever columns of them are copied, and where anything is made of a mean, a standard
    deviation or stretched positions, all of that tensor. `together` ranks, one after the other, share a node's page
    cache, which holds what one of them has read.
    """
    kept = [] if optimizer is None else [value for entry in optimizer.values() for value in entry.values()]
    asked = _Asked(ranks, together)
    for tensor in [*state.values(), *(value for value in kept if not isinstance(value, float))]:
        for stored, rows in _stored_rows(tensor):
            asked.add(stored, tensor, rows)
    nodes = asked.bytes_by_node()
    return Reading(int(nodes.max()), int(nodes.sum()))


@dataclass(frozen=True)
class _Rows:
    """Which row of a stored tensor each row of a target tensor asks for, _NONE or _ALL."""

    rows: torch.Tensor
    pattern: tuple[object, ...]
    """What tells these rows from others: layers are made alike."""

    def all_where_any(self) -> "_Rows":
        """All rows in the place of any."""
        return _Rows(torch.where(self.rows == _NONE, _NONE, _ALL), (*self.pattern, _ALL))


class _Asked:
    """What is asked of each stored tensor, by node."""

    def __init__(self, ranks: int, together: int) -> None:
        self._ranks, self._together = ranks, together
        self._nodes = -(-ranks // together)
        self._patterns: dict[tuple[object, ...], int] = {}
        self._pairs: list[torch.Tensor] = []
        self._read: dict[int, tuple[Rows, set[int]]] = {}

    def add(self, stored: Rows, target: Rows, asked: _Rows) -> None:
        """Take note of the rows of a stored tensor that the pieces of a target tensor are made of."""
        key = (*asked.pattern, stored.shape[0], target.shape)
        if key not in self._patterns:
            self._patterns[key] = len(self._pairs)
            self._pairs.append(self._by_node(asked.rows, stored.shape[0], target.shape))
        self._read.setdefault(id(stored), (stored, set()))[1].add(self._patterns[key])

    def _by_node(self, rows: torch.Tensor, stored: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Return node * (stored + 1) + row, each once, for all that the pieces on each node ask for; `stored` means all."""
        width, size = math.prod(shape[1:]), partition_size(math.prod(shape), self._ranks)
        target = torch.arange(len(rows))
        first, last = target * width // size, ((target + 1) * width - 1) // size
        # A row of the target may lie on several ranks.
        owners = last - first + 1
        begins = (owners.cumsum(0) - owners).repeat_interleave(owners)
        node = (first.repeat_interleave(owners) + torch.arange(int(owners.sum())) - begins) // self._together
        asked = torch.where(rows == _ALL, stored, rows).repeat_interleave(owners)
        return (node * (stored + 1) + asked)[asked != _NONE].unique()

    def bytes_by_node(self) -> torch.Tensor:
        """Return the bytes that each node reads."""
        total = torch.zeros(self._nodes, dtype=torch.int64)
        counted: dict[frozenset[int], torch.Tensor] = {}
        for stored, numbers in self._read.values():
            same, size = frozenset(numbers), stored.shape[0]
            if same not in counted:
                found = torch.cat([self._pairs[number] for number in same]).unique()
                counted[same] = torch.bincount(found // (size + 1), minlength=self._nodes)
                counted[same][found[found % (size + 1) == size] // (size + 1)] = size
            total += counted[same] * (math.prod(stored.shape[1:]) * stored_dtype(stored).itemsize)
        return total


def _stored_rows(tensor: Rows) -> Iterator[tuple[Rows, _Rows]]:
    """Yield each stored tensor that a target tensor is made of, and its rows."""
    if isinstance(tensor, Shifted | OpposedCopy):
        tensor = tensor.tensor
    if isinstance(tensor, Replaced):
        for part in (tensor.tensor, tensor.other):
            yield from _stored_rows(part)
        return
    if not isinstance(tensor, GrownTensor):
        yield from _beneath(tensor, _Rows(torch.arange(tensor.shape[0]), ()))
        return
    maps = id(tensor.row_map), id(tensor.column_map)
    for following, source in ((False, tensor.own), (True, tensor.following)):
        rows = tensor.rows_of(following)
        if bool((rows != _NONE).any()):
            yield from _beneath(source, _Rows(rows, (*maps, following)))
    statistics = tensor.rows_of_statistics()
    if bool(statistics.any()):
        yield from _beneath(tensor.own, _Rows(torch.where(statistics, _ALL, _NONE), (*maps, _ALL)))


def _beneath(source: Rows, asked: _Rows) -> Iterator[tuple[Rows, _Rows]]:
    """Go through what only passes rows on, to what is stored."""
    if isinstance(source, MeasuredTensor | Shifted):
        yield from _beneath(source.tensor, asked)
    elif isinstance(source, TensorBlock | RepeatedRows | Replaced | OpposedCopy):
        yield from _beneath(source.tensor, asked.all_where_any())
    elif isinstance(source, StretchedPositions):
        yield from _beneath(source.source, asked.all_where_any())
    elif isinstance(source, ConcatenatedRows):
        for tensor in source.parts:
            yield from _beneath(tensor, asked.all_where_any())
    elif isinstance(source, AveragedRows):
        for tensor, _ in source.terms:
            yield from _beneath(tensor, asked)
    elif isinstance(source, IdentityNorm):
        for vector in source.read:
            yield from _beneath(vector, asked.all_where_any())
    elif not isinstance(source, Constant | InitializedTensor | DrawnRows):
        yield source, asked
