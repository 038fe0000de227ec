"""Which window each sample takes: the order inside a corpus, and the blend of several by weight."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.data.permutation import Permutation

BLOCK = 65_536
"""Samples within which each corpus has exactly its share."""

_KEPT_BLOCKS = 4
"""Blocks whose table stays in memory, 384 KiB each."""


def block_counts(weights: Mapping[str, float]) -> np.ndarray:
    """Return how many samples of a block each corpus has, int64, by largest remainder, ties to the corpus named first."""
    shares = np.array(list(weights.values())) / sum(weights.values()) * BLOCK
    counts = np.floor(shares).astype(np.int64)
    left = BLOCK - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:left]] += 1
    return counts


def own_windows(windows: int, key: tuple[object, ...], samples: np.ndarray) -> np.ndarray:
    """Return which of a corpus's windows its own samples (a running number over all epochs) take.

    Every epoch is a permutation of its own, so that a run's position is the number of samples consumed.
    """
    epochs, positions = np.divmod(samples, windows)
    taken = np.empty_like(samples)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        taken[here] = Permutation(windows, (*key, int(epoch)))(positions[here])
    return taken


class Blend:
    """Which corpus each training sample comes from, and which of the corpus's own samples it is.

    Of every BLOCK samples each corpus has the same number, in an order that a keyed permutation gives; its samples, as they
    appear, are its own 0, 1, 2 and so on. So a corpus's own order is the same in any blend.
    """

    def __init__(self, weights: Mapping[str, float], seed: int) -> None:
        self._counts = block_counts(weights)
        self._seed = seed
        self._tables: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def __call__(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (corpus, the corpus's own sample) of each sample, both int64."""
        blocks, positions = np.divmod(samples, BLOCK)
        corpora, own = np.empty_like(samples), np.empty_like(samples)
        for block in np.unique(blocks):
            here = blocks == block
            of, rank = self._table(int(block))
            corpora[here] = of[positions[here]]
            own[here] = block * self._counts[corpora[here]] + rank[positions[here]]
        return corpora, own

    def _table(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the corpus at each position of a block, and how many of the same corpus stand before it."""
        table = self._tables.pop(block, None)
        if table is None:
            places = Permutation(BLOCK, ("blend", self._seed, block))(np.arange(BLOCK))
            of = np.searchsorted(np.cumsum(self._counts), places, side="right").astype(np.uint16)
            rank = np.empty(BLOCK, dtype=np.int32)
            # Stable: the positions of a corpus follow each other in order.
            rank[np.argsort(of, kind="stable")] = np.concatenate([np.arange(count) for count in self._counts])
            table = of, rank
        self._tables[block] = table
        if len(self._tables) > _KEPT_BLOCKS:
            self._tables.popitem(last=False)
        return table


def spread(windows: Sequence[int], weights: Sequence[float], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (corpus, window) of the first `count` held-out windows, both int64.

    Each corpus's windows come in their own order, evenly by weight: among the first N every corpus has its share, within
    one window, for as long as its windows last. So the loss over any number of them is the blend's.
    """
    taken = np.minimum(np.array(windows, dtype=np.int64), count)
    corpora = np.repeat(np.arange(len(taken)), taken)
    own = np.arange(len(corpora)) - np.repeat(np.cumsum(taken) - taken, taken)
    # Window j of a corpus of weight w is due in the middle of the j-th stretch of 1 / w.
    order = np.argsort((own + 0.5) / np.array(weights, dtype=np.float64)[corpora], kind="stable")[:count]
    return corpora[order], own[order]
