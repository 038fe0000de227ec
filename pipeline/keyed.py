"""Random numbers addressed by (key, element): any process computes any run of them, to the same bits.

Philox 4x64 is a counter-based generator: element i of a stream is a function of the key and of i alone.
Logarithm and cosine are the machine's own: between kinds of CPU normal draws may differ in the last digit.
"""

import hashlib
import math

import numpy as np
import torch

_WORDS_PER_COUNTER = 4
_BLOCK = 1 << 16


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
    values = np.empty(count)
    # In blocks that stay in the cache; numpy's cosine is several times slower than torch's.
    for begin in range(0, count, _BLOCK):
        end = min(begin + _BLOCK, count)
        raw = words(key, start + begin, end - begin)
        radius = torch.from_numpy((raw >> np.uint64(32)).view(np.int64)).double().add_(0.5).mul_(2.0**-32)
        angle = torch.from_numpy((raw & np.uint64(0xFFFFFFFF)).view(np.int64)).double().mul_(2 * math.pi * 2.0**-32)
        torch.mul(radius.log_().mul_(-2.0).sqrt_(), angle.cos_(), out=torch.from_numpy(values[begin:end]))
    return values


def below(key: tuple[object, ...], start: int, count: int, bound: int) -> np.ndarray:
    """Return int64 values in [0, bound)."""
    return (uniform(key, start, count) * bound).astype(np.int64)
