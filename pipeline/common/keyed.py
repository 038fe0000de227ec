"""Random numbers addressed by (key, element): any process computes any run of them, to the same bits.

Philox is a counter-based generator: element i of a stream is a function of the key and of i alone. Whole and uniform
numbers are of Philox 4x64, normal ones of Philox 4x32 and in operations that are the same on every CPU.
"""

import hashlib

import numpy as np

DRAWS = "philox4x32-10, box-muller, float32"
"""What normal values are made by. Whoever makes the same key and element give another value changes it."""

_WORDS_PER_COUNTER = 4


def words(key: tuple[object, ...], start: int, count: int) -> np.ndarray:
    """Return elements [start, start + count) of the stream named `key`, as uint64."""
    first = start // _WORDS_PER_COUNTER
    generator = np.random.Philox(key=np.frombuffer(_digest(key), dtype=np.uint64), counter=np.uint64(first))
    skipped = start - first * _WORDS_PER_COUNTER
    return generator.random_raw(skipped + count)[skipped:]


def uniform(key: tuple[object, ...], start: int, count: int) -> np.ndarray:
    """Return float64 values in [0, 1)."""
    return (words(key, start, count) >> np.uint64(11)) * 2.0**-53


def normal(key: tuple[object, ...], start: int, count: int) -> np.ndarray:
    """Return standard normal float32 values."""
    # numba takes half a second to import, and most of what imports this module draws none.
    from pipeline.common.normal_draws import PER_BLOCK, fill_normal

    first, behind = start // PER_BLOCK, -(-(start + count) // PER_BLOCK)
    values = np.empty((behind - first, PER_BLOCK), np.float32)
    fill_normal(*_philox_key(key), first, values)
    return values.reshape(-1)[start - first * PER_BLOCK :][:count]


def normal_block(key: tuple[object, ...], rows: tuple[int, int], columns: tuple[int, int], width: int) -> np.ndarray:
    """Return float32 [rows, columns]: of the stream in rows of `width` values, rows and columns [first, behind) of each."""
    (start, stop), (first, behind) = rows, columns
    if (first, behind) == (0, width):
        return normal(key, start * width, (stop - start) * width).reshape(stop - start, width)
    from pipeline.common.normal_draws import fill_normal_rows

    values = np.empty((stop - start, behind - first), np.float32)
    fill_normal_rows(*_philox_key(key), start * width + first, width, values)
    return values


def below(key: tuple[object, ...], start: int, count: int, bound: int) -> np.ndarray:
    """Return int64 values in [0, bound)."""
    return (uniform(key, start, count) * bound).astype(np.int64)


def _philox_key(key: tuple[object, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The keys of Philox's rounds and the upper half of all counters of the stream named `key`."""
    from pipeline.common.normal_draws import round_keys

    named = np.frombuffer(_digest(key), dtype=np.uint32)
    return round_keys(int(named[0]), int(named[1])), named[2:]


def _digest(key: tuple[object, ...]) -> bytes:
    return hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
