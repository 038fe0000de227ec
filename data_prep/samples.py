"""Samples of shards: the lengths of their sequences, and windows of their tokens as text."""

from collections.abc import Iterator

import numpy as np

from data_prep.manifest import CorpusEntry, PreparedData
from data_prep.shards import Shard

WINDOW = 48
"""Tokens of a window that is shown."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SHARDS = 8
_SEQUENCES = 1 << 20


def sequence_lengths(shards: list[Shard]) -> np.ndarray:
    """Return the tokens of sequences, int32: of all, or of some million that are spread evenly over eight shards.

    The shards, too, are spread evenly over the split.
    """
    if len(shards) > _SHARDS:
        shards = [shards[number * len(shards) // _SHARDS] for number in range(_SHARDS)]
    step = -(-max(1, sum(shard.sequences for shard in shards)) // _SEQUENCES)
    return np.concatenate([np.asarray(shard.lengths[::step]) for shard in shards])


def sample_windows(data: PreparedData, corpus: CorpusEntry, split: str, count: int) -> Iterator[str]:
    """Yield up to `count` windows of a split as text, their white space made single spaces.

    Raises UserError where a shard is damaged.
    """
    shards = data.open(corpus, split)
    # Fewer where they would overlap.
    count = min(count, max(1, corpus.splits[split].tokens // (len(shards) * WINDOW)))
    for number in range(count):
        shard = shards[number % len(shards)]
        begin = shard.size * number // count
        ids = shard.read(begin, min(begin + WINDOW, shard.size))
        yield " ".join(data.tokenizer.decode(ids.tolist()).split())
