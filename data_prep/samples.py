"""Samples of shards: the lengths of their sequences, and windows of their tokens as text."""

from collections.abc import Iterator

import numpy as np

from data_prep.manifest import PreparedData, SplitEntry
from data_prep.shards import Shard

WINDOW = 48
"""Tokens of a window that is shown."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SHARDS = 8
_SEQUENCES = 1 << 20


def sequence_lengths(data: PreparedData, split: SplitEntry) -> np.ndarray:
    """Return the tokens of sequences, int32: of all, or of some million that are spread evenly over eight shards.

    The shards, too, are spread evenly over the split. Raises UserError where one is damaged.
    """
    shards = _some(data, split, _SHARDS)
    step = -(-max(1, sum(shard.sequences for shard in shards)) // _SEQUENCES)
    return np.concatenate([np.asarray(shard.lengths[::step]) for shard in shards])


def _some(data: PreparedData, split: SplitEntry, most: int) -> list[Shard]:
    """Up to `most` shards of a split; of tens of thousands no others are opened."""
    count = min(most, len(split.shards))
    return [data.open_shard(split.shards[number * len(split.shards) // count]) for number in range(count)]


def sample_windows(data: PreparedData, split: SplitEntry, count: int) -> Iterator[str]:
    """Yield up to `count` windows of a split as text, their white space made single spaces.

    Raises UserError where a shard is damaged.
    """
    shards = _some(data, split, count)
    # Fewer where they would overlap.
    count = min(count, max(1, sum(shard.size for shard in shards) // WINDOW))
    for number in range(count):
        shard = shards[number % len(shards)]
        begin = shard.size * number // count
        ids = shard.read(begin, min(begin + WINDOW, shard.size))
        yield " ".join(data.tokenizer.decode(ids.tolist()).split())
