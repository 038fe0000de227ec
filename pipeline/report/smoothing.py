"""Means over neighbouring steps, and which of them are drawn."""

from collections.abc import Sequence

import numpy as np


def smoothed(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Return means over `window` values around each, fewer at the ends, leaving out those that are not numbers."""
    values = np.asarray(values, dtype=float)
    known = np.isfinite(values)
    begin = (window - 1) // 2
    sums, counts = (
        np.convolve(one, np.ones(window))[begin : begin + len(values)] for one in (np.where(known, values, 0.0), known)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)


def thinned(count: int, window: int) -> list[int]:
    """Return which of `count` means over `window` values are drawn: four a window, and the last.

    More show nothing else, and a page of a run of a million steps would not open.
    """
    return sorted({*range(0, count, max(1, window // 4)), count - 1})
