"""MinHash signatures (Broder 1997): two texts agree in a row with a probability that is their Jaccard similarity."""

from collections.abc import Sequence

import numpy as np

from data_prep.dedupe.kernels import sign
from data_prep.dedupe.shingles import code_points, word_table

_KEY = 0x6D696E68617368


class Signer:
    """Signatures of `permutations` rows over shingles of `ngram` words."""

    def __init__(self, permutations: int, ngram: int) -> None:
        self._ngram = ngram
        # random_raw is the counter-based generator itself, the same in every version of numpy.
        raw = np.random.Philox(key=_KEY).random_raw(2 * permutations)
        self._factors = (raw[:permutations] >> 32).astype(np.uint32) | np.uint32(1)
        self._addends = (raw[permutations:] >> 32).astype(np.uint32)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return (signatures, uint32 [texts, permutations]; whether there are words, bool [texts]).

        Takes about nine bytes a character of memory.
        """
        codes, ends = code_points(texts)
        signatures = np.empty((len(texts), len(self._factors)), dtype=np.uint32)
        worded = np.empty(len(texts), dtype=np.bool_)
        sign(codes, ends, word_table(), self._ngram, self._factors, self._addends, signatures, worded)
        return signatures, worded


def rows_needed(permutations: int, threshold: float) -> int:
    """Return how many of `permutations` rows must agree for an estimated similarity of `threshold`."""
    return next(rows for rows in range(permutations + 1) if rows / permutations >= threshold)
