"""Which elements of which parameter lie on which rank under ZeRO; nothing of DeepSpeed or torch is needed to know it.

Under stage 3 each parameter is divided by itself: rank r of W has elements [r p, (r + 1) p) of it, p = ceil(numel / W), padded
behind the last one. Under stages 1 and 2 the parameters of a group are laid one after the other, padded, and divided as one
(Rajbhandari et al. 2020; DeepSpeed 0.19).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PartitionSlice:
    """Elements [start, stop) of a flattened parameter, which begin at `place` of a rank's flat tensor."""

    name: str
    start: int
    stop: int
    place: int

    @property
    def numel(self) -> int:
        """How many elements these are."""
        return self.stop - self.start

    @property
    def end(self) -> int:
        """The place behind the last of them."""
        return self.place + self.numel


def partition_size(numel: int, ranks: int) -> int:
    """Return the elements of each rank's partition of one parameter under stage 3, padding included."""
    return -(-numel // ranks)


def partition_bounds(numel: int, rank: int, ranks: int) -> tuple[int, int]:
    """Return the first element that a rank has of one parameter under stage 3, and the one behind its last."""
    size = partition_size(numel, ranks)
    return min(rank * size, numel), min((rank + 1) * size, numel)


def group_slices(numels: Iterable[tuple[str, int]], rank: int, partition: int, alignment: int = 1) -> Iterator[PartitionSlice]:
    """Yield what a rank has of a group's parameters, (name, elements) in their order, under stages 1 and 2.

    `partition` is the length of each rank's partition; each parameter begins at a multiple of `alignment`. Those of which the
    rank has nothing are left out.
    """
    first, begin = rank * partition, 0
    for name, numel in numels:
        start, stop = max(first - begin, 0), min(first + partition - begin, numel)
        if start < stop:
            yield PartitionSlice(name, start, stop, begin + start - first)
        begin += alignment * -(-numel // alignment)
