"""The batches of a step, and each rank's share of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.blend import Blend, own_windows, spread
from pipeline.data.objectives import IGNORED, Key, Objective
from pipeline.data.windows import Windows


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences and their labels, int64 [sequences, S] each."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    documents: torch.Tensor | None
    """The document of each token, counted within its sequence, where attention stays within documents."""

    @property
    def scored(self) -> int:
        """Positions that count in the loss."""
        return int((self.labels != IGNORED).sum())

    def inputs(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the ids on `device`, and the documents where they are to be kept apart."""
        return self.input_ids.to(device), None if self.documents is None else self.documents.to(device)


@dataclass(frozen=True, slots=True)
class Corpus:
    """One corpus's windows of a split, and its share of the samples."""

    name: str
    weight: float
    windows: Windows


class Batches:
    """A split's windows through an objective, addressed by sample number.

    What a corpus gives, masks included, depends on its own name and on the seed, not on the other corpora: only when it comes
    depends on the blend.
    """

    def __init__(self, corpora: Sequence[Corpus], objective: Objective, seed: int, *, apart: bool = False) -> None:
        self._corpora = corpora
        self._objective = objective
        self._seed = seed
        self._apart = apart
        self._blend = Blend({corpus.name: corpus.weight for corpus in corpora}, seed)
        self._heldout_order = spread([], [], 0)

    def __len__(self) -> int:
        """Return the windows of all corpora."""
        return sum(len(corpus.windows) for corpus in self._corpora)

    def training(self, samples: np.ndarray) -> Batch:
        """Return the batch of these samples of the endless training order."""
        corpora, own = self._blend(samples)
        taken = np.empty_like(samples)
        for number, corpus in enumerate(self._corpora):
            here = corpora == number
            taken[here] = own_windows(len(corpus.windows), (self._seed, corpus.name), own[here])
        keys = [(self._seed, self._corpora[c].name, o) for c, o in zip(corpora.tolist(), own.tolist(), strict=True)]
        return self._batch(corpora, taken, keys)

    def heldout(self, indices: np.ndarray) -> Batch:
        """Return the batch of these windows of the corpora's evenly spread ones, masked the same way each time."""
        if (count := int(indices.max()) + 1) > (known := len(self._heldout_order[0])):
            sizes, weights = zip(*((len(corpus.windows), corpus.weight) for corpus in self._corpora), strict=True)
            self._heldout_order = spread(sizes, weights, max(count, 2 * known))
        corpora, windows = (order[indices] for order in self._heldout_order)
        keys = [
            (self._seed, self._corpora[c].name, "heldout", w) for c, w in zip(corpora.tolist(), windows.tolist(), strict=True)
        ]
        return self._batch(corpora, windows, keys)

    def _batch(self, corpora: np.ndarray, windows: np.ndarray, keys: list[Key]) -> Batch:
        """Return the batch of these windows, each of one corpus."""
        tokens = np.empty((len(corpora), self._objective.window[0]), dtype=np.int64)
        documents = np.empty_like(tokens) if self._apart else None
        for number in np.unique(corpora):
            here = corpora == number
            tokens[here] = self._corpora[number].windows.read(windows[here])
            if documents is not None:
                documents[here] = self._corpora[number].windows.documents(windows[here])
        inputs, labels = map(torch.from_numpy, self._objective.examples(tokens, keys))
        if documents is None:
            return Batch(inputs, labels, None)
        return Batch(inputs, labels, torch.from_numpy(self._objective.inputs_documents(documents)))


def rank_samples(first: int, batch_size: int, micro_batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """Return this rank's micro-batches of the step that takes samples [first, first + batch_size)."""
    share = batch_size // world_size
    begin = first + rank * share
    return [np.arange(b, b + micro_batch_size) for b in range(begin, begin + share, micro_batch_size)]
