"""What a corpus gives to a batch: examples by number, as columns; those of windows over the flat tokens of its shards."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from data_prep.shards import Shard
from pipeline.data.objectives import Key, Objective

Columns = dict[str, np.ndarray]
"""The fields of `Batch` that there are, int64, one row an example."""


class Examples(Protocol):
    """The examples of one corpus's split."""

    def __len__(self) -> int:
        """Return how many there are: those of an epoch."""
        ...

    def read(self, numbers: np.ndarray, keys: Sequence[Key]) -> Columns:
        """Return examples by number; what is drawn for one is a function of its key alone."""
        ...


def locate(ends: np.ndarray, number: int) -> tuple[int, int]:
    """Return which part a running number over several parts lies in, and its number there; `ends` are the parts' own."""
    place = int(np.searchsorted(ends, number, side="right"))
    return place, number - (int(ends[place - 1]) if place else 0)


class Windows:
    """Windows `[i * stride, i * stride + length)` over each shard's tokens, shard after shard.

    Holds one count a shard, and asks a shard for nothing but its `size` until one of its windows is read. A shard too short for
    a window has none.
    """

    def __init__(self, shards: Sequence[Shard], length: int, stride: int) -> None:
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

    def _places(self, indices: np.ndarray) -> Iterator[tuple[Shard, int]]:
        """Each window's shard, and its first token there."""
        for index in indices.tolist():
            place, number = locate(self._ends, index)
            yield self._shards[place], number * self._stride


class WindowExamples:
    """Windows of tokens through an objective; `within_documents` adds their documents."""

    def __init__(self, shards: Sequence[Shard], objective: Objective, *, within_documents: bool) -> None:
        self._windows = Windows(shards, *objective.window)
        self._objective = objective
        self._within_documents = within_documents

    def __len__(self) -> int:
        return len(self._windows)

    def read(self, numbers: np.ndarray, keys: Sequence[Key]) -> Columns:
        """Return the columns input_ids and labels, and documents where attention stays within them: [windows, S] each."""
        inputs, labels = self._objective.examples(self._windows.read(numbers), keys)
        columns = {"input_ids": inputs, "labels": labels}
        if self._within_documents:
            columns["documents"] = self._objective.inputs_documents(self._windows.documents(numbers))
        return columns
