"""A keyed permutation of [0, n) that needs no index in memory."""

import numpy as np

from pipeline.common import keyed

_ROUNDS = 4


class Permutation:
    """A four-round Feistel network over the next even power of two, walking cycles back below n."""

    def __init__(self, size: int, key: tuple[object, ...]) -> None:
        half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        self._size = size
        self._shift = np.uint64(half_bits)
        self._mask = np.uint64((1 << half_bits) - 1)
        self._round_keys = keyed.words(("feistel", *key), 0, _ROUNDS)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Return where `positions` (int64, each below n) go."""
        values = self._encrypt(positions.astype(np.uint64))
        # The domain is at most four times n, so the walk back is short; a cycle that starts below n returns there.
        while (outside := values >= self._size).any():
            values[outside] = self._encrypt(values[outside])
        return values.astype(np.int64)

    def _encrypt(self, values: np.ndarray) -> np.ndarray:
        left, right = values >> self._shift, values & self._mask
        for key in self._round_keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._shift) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: every bit of the input reaches every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
