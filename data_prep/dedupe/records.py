"""Sorted arrays on disk, of which a range of keys is a slice."""

from bisect import bisect_left
from pathlib import Path

import numpy as np

from data_prep.storage.arrays import mapped

COPY = np.dtype([("document", "<i8"), ("kept", "<i8"), ("similarity", "<f4")])
"""A document that is dropped, or may be, the one that stays instead, and their estimated similarity."""


def table_of(dtype: np.dtype, **columns: np.ndarray | float) -> np.ndarray:
    """Return records of `dtype`, given a column for each field; a column may be one number for all records."""
    table = np.empty(np.broadcast_shapes(*map(np.shape, columns.values())), dtype)
    for name, column in columns.items():
        table[name] = column
    return table


def between(table: np.ndarray, field: str, start: int, stop: int) -> np.ndarray:
    """Return a copy of the records whose `field`, by which they are sorted, lies in [start, stop); no others are read.

    A view would keep the map that it is of, and the map its file descriptor, of which 1,024 are a usual limit.
    """
    return np.array(table[places_between(table, field, start, stop)])


def places_between(table: np.ndarray, field: str, start: int, stop: int) -> slice:
    """Return the places of the records whose `field`, by which they are sorted, lies in [start, stop)."""
    column = table[field]  # numpy's searchsorted would copy the whole column
    low = bisect_left(column, start)
    return slice(low, bisect_left(column, stop, lo=low))


def holds(column: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return whether a sorted column holds each value, bool; of a memory-mapped one no more is read than is looked at."""
    low, high = np.zeros(len(values), dtype=np.int64), np.full(len(values), len(column))
    while (open_ := low < high).any():
        middle = (low + high) // 2
        above = np.zeros(len(values), dtype=bool)
        above[open_] = column[middle[open_]] < values[open_]
        low = np.where(above, middle + 1, low)
        high = np.where(open_ & ~above, middle, high)
    found = low < len(column)
    found[found] = column[low[found]] == values[found]
    return found


def begins(*columns: np.ndarray) -> np.ndarray:
    """Return where a run of equal values begins, bool; several columns are equal where each is."""
    marks = np.ones(len(columns[0]), dtype=bool)
    marks[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return marks


def distinct(*arrays: np.ndarray) -> np.ndarray:
    """Return the values of all arrays, each once, ascending; numpy's `unique` hashes them, which takes 30 times as long."""
    values = np.concatenate(arrays)
    values.sort()
    return values[begins(values)]


def range_count(records: int, bytes_each: int, memory: int) -> int:
    """Return into how many ranges of keys to split records whose sorting takes `bytes_each`, for `memory` bytes to do."""
    return max(1, -(-records * bytes_each // memory))


def key_range(index: int, count: int) -> tuple[int, int]:
    """Return range `index` of `count` of the 64-bit keys, which are hashes: different ones spread evenly, equal ones never."""
    return (index << 64) // count, (index + 1 << 64) // count


class Copies:
    """Files of COPY records, each sorted by document, a document in one of them at most."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def between(self, start: int, stop: int) -> np.ndarray:
        """Return the records of the documents in [start, stop), sorted by document."""
        found = [between(mapped(path), "document", start, stop) for path in self._paths]
        records = np.concatenate([np.empty(0, COPY), *found])
        return records[np.argsort(records["document"])]

    def have(self, documents: np.ndarray) -> np.ndarray:
        """Return whether there is a record of each document, bool."""
        found = np.zeros(len(documents), dtype=bool)
        for path in self._paths:
            found |= holds(mapped(path)["document"], documents)
        return found
