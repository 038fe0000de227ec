"""Random numbers addressed by (key, element): any process computes any run of them, the same bits everywhere.

Philox 4x64 is a counter-based generator: element i of a stream is a function of the key and of i alone.
"""

import hashlib

import numpy as np

_WORDS_PER_COUNTER = 4


def words(key: tuple[object, ...], start: int, count: int) -> np.ndarray:
    """Return elements [start, start + count) of the stream named `key`, as uint64."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    first = start // _WORDS_PER_COUNTER
    generator = np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64), counter=np.uint64(first))
    skipped = start - first * _WORDS_PER_COUNTER
    return generator.random_raw(skipped + count)[skipped:]


def uniform(key: tuple[object, ...], start: int, count: int) -> np.ndarray:
    """Return float64 values in [0, 1)."""
    return (words(key, start, count) >> np.uint64(11)) * 2.0**-53


def normal(key: tuple[object, ...], start: int, count: int) -> np.ndarray:
    """Return standard normal float64 values (Box-Muller, one word an element)."""
    raw = words(key, start, count)
    radius = ((raw >> np.uint64(32)) + 0.5) * 2.0**-32
    angle = (raw & np.uint64(0xFFFFFFFF)) * (2 * np.pi * 2.0**-32)
    return np.sqrt(-2.0 * np.log(radius)) * np.cos(angle)


def below(key: tuple[object, ...], start: int, count: int, bound: int) -> np.ndarray:
    """Return int64 values in [0, bound)."""
    return (uniform(key, start, count) * bound).astype(np.int64)
