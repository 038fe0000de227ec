"""The ids of many texts in one array."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass(frozen=True, slots=True)
class Ragged:
    """Texts' ids one after the other, and how many each has."""

    ids: np.ndarray
    """uint32 [ids of all texts]."""
    lengths: np.ndarray
    """int64 [texts]."""

    def __getitem__(self, texts: slice) -> "Ragged":
        begin = int(self.lengths[: texts.start].sum())
        lengths = self.lengths[texts]
        return Ragged(self.ids[begin : begin + int(lengths.sum())], lengths)


def first_difference(one: Ragged, other: Ragged) -> int | None:
    """Return the first of as many texts whose ids are not the same, None where all are."""
    unequal = np.flatnonzero(one.lengths != other.lengths)
    texts = int(unequal[0]) if len(unequal) else len(one.lengths)
    ends = np.cumsum(one.lengths[:texts])
    ids = int(ends[-1]) if texts else 0
    different = np.flatnonzero(one.ids[:ids] != other.ids[:ids])
    if len(different):
        return int(np.searchsorted(ends, different[0], side="right"))
    return texts if len(unequal) else None


def interleaved(ones: Ragged, others: Ragged, is_one: np.ndarray) -> Ragged:
    """Return the texts of both in one order: `is_one`, bool [all texts], says of which each is."""
    lengths = np.empty(len(is_one), np.int64)
    lengths[is_one], lengths[~is_one] = ones.lengths, others.lengths
    of_one = np.repeat(is_one, lengths)
    ids = np.empty(len(of_one), np.uint32)
    ids[of_one], ids[~of_one] = ones.ids, others.ids
    return Ragged(ids, lengths)


def ragged(lists: Sequence[Sequence[int]]) -> Ragged:
    """Return the ids of texts that are given as lists."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    return Ragged(np.fromiter(chain.from_iterable(lists), np.uint32, int(lengths.sum())), lengths)


def from_bytes(ids: bytes, ends: bytes) -> Ragged:
    """Return the ids of texts that are given as bytes: uint32, and uint64 [texts + 1] where each text's begin."""
    return Ragged(np.frombuffer(ids, np.uint32), np.diff(np.frombuffer(ends, np.uint64).astype(np.int64)))
