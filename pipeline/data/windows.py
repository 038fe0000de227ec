"""Fixed-length windows over a shard's flat tokens, and the order in which training takes them."""

from dataclasses import dataclass

import numpy as np

from data_prep.errors import UserError
from data_prep.shards import Shard
from pipeline.data.permutation import Permutation


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows `[i * stride, i * stride + length)` over the tokens of one shard."""

    shard: Shard
    length: int
    stride: int

    def __post_init__(self) -> None:
        if len(self) < 1:
            raise UserError(
                f"{self.shard.prefix}.bin: {len(self.shard.tokens)} tokens make no window of {self.length}; "
                "give more text or a shorter data.sequence_length"
            )

    def __len__(self) -> int:
        return (len(self.shard.tokens) - self.length) // self.stride + 1

    def __getitem__(self, index: int) -> np.ndarray:
        begin = index * self.stride
        return self.shard.tokens[begin : begin + self.length].astype(np.int64)


def training_windows(windows: Windows, seed: int, samples: np.ndarray) -> np.ndarray:
    """Return the window that each sample (a running number over all epochs) takes.

    Every epoch is a permutation of its own, so that a run's position is the number of samples consumed.
    """
    epochs, positions = np.divmod(samples, len(windows))
    taken = np.empty_like(samples)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        taken[here] = Permutation(len(windows), (seed, int(epoch)))(positions[here])
    return taken
