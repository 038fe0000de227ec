"""The batches of a step, and each rank's share of them."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.objectives import IGNORED, Objective
from pipeline.data.windows import Windows, training_windows


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences and their labels, int64 [sequences, S]."""

    input_ids: torch.Tensor
    labels: torch.Tensor

    @property
    def scored(self) -> int:
        """Positions that count in the loss."""
        return int((self.labels != IGNORED).sum())


@dataclass(frozen=True, slots=True)
class Batches:
    """A split's windows through an objective, addressed by sample number."""

    windows: Windows
    objective: Objective
    seed: int

    def training(self, samples: np.ndarray) -> Batch:
        """Return the batch of these samples of the endless training order."""
        return self._batch(training_windows(self.windows, self.seed, samples), samples)

    def heldout(self, indices: np.ndarray) -> Batch:
        """Return the batch of these windows, masked the same way each time."""
        return self._batch(indices, indices)

    def _batch(self, windows: np.ndarray, keys: np.ndarray) -> Batch:
        examples = [
            self.objective.example(self.windows[int(window)], (self.seed, int(key)))
            for window, key in zip(windows, keys, strict=True)
        ]
        inputs, labels = (np.stack(column) for column in zip(*examples, strict=True))
        return Batch(torch.from_numpy(inputs), torch.from_numpy(labels))


def rank_samples(first: int, batch_size: int, micro_batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """Return this rank's micro-batches of the step that takes samples [first, first + batch_size)."""
    share = batch_size // world_size
    begin = first + rank * share
    return [np.arange(b, b + micro_batch_size) for b in range(begin, begin + share, micro_batch_size)]
