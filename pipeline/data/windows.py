"""Fixed-length windows over the flat tokens of a corpus's shards."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np


class Tokens(Protocol):
    """What windows need of a shard; nothing but `size` is asked for until one of its windows is read."""

    size: int

    def read(self, begin: int, end: int) -> np.ndarray:
        """Return tokens [begin, end), int64; raises UserError where they are not what was prepared."""
        ...

    def boundaries(self, begin: int, end: int) -> np.ndarray:
        """Return the tokens after `begin` and before `end` at which a document begins."""
        ...


class Windows:
    """Windows `[i * stride, i * stride + length)` over each shard's tokens, shard after shard.

    Holds one count a shard. A shard too short for a window has none.
    """

    def __init__(self, shards: Sequence[Tokens], length: int, stride: int) -> None:
        self.length = length
        self._stride = stride
        self._shards = [shard for shard in shards if shard.size >= length]
        counts = [(shard.size - length) // stride + 1 for shard in self._shards]
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return the tokens of several windows, int64 [windows, length]; raises UserError as the shards do."""
        tokens = np.empty((len(indices), self.length), dtype=np.int64)
        for row, (shard, begin) in enumerate(self._places(indices)):
            tokens[row] = shard.read(begin, begin + self.length)
        return tokens

    def documents(self, indices: np.ndarray) -> np.ndarray:
        """Return the document that each of these tokens belongs to, counted within its window: int64 [windows, length]."""
        begins = np.zeros((len(indices), self.length), dtype=np.int64)
        for row, (shard, begin) in enumerate(self._places(indices)):
            begins[row, shard.boundaries(begin, begin + self.length) - begin] = 1
        return np.cumsum(begins, axis=1)

    def _places(self, indices: np.ndarray) -> Iterator[tuple[Tokens, int]]:
        """Each window's shard, and its first token there."""
        places = np.searchsorted(self._ends, indices, side="right")
        for index, place in zip(indices.tolist(), places.tolist(), strict=True):
            yield self._shards[place], (index - (int(self._ends[place - 1]) if place else 0)) * self._stride
