"""Loss on held-out windows, the same to the last windows at any number of ranks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch

from pipeline.common.heartbeat import beat
from pipeline.common.progress import Meter
from pipeline.data.batches import Batch
from pipeline.training import distributed
from pipeline.training.losses import Logits, right, summed_losses
from pipeline.training.sequence_parallel import ALONE, SequenceGroup

_READ_TOGETHER = 16
"""Batches."""

Model = Callable[..., Logits]
"""A batch's inputs, by name, to logits: under `scoring` to those of the scored tokens alone."""

Scoring = Callable[[torch.Tensor], AbstractContextManager[torch.Tensor]]
"""`running.scoring` of the model."""


class HeldOutBatches(Protocol):
    """Held-out text in windows: `Batches`, or a view of them."""

    def __len__(self) -> int: ...

    def heldout(self, indices: np.ndarray, /) -> Batch:
        """Return the batch of these windows."""
        ...


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a model makes of held-out windows."""

    loss: float
    """Nats per scored token."""
    accuracy: float
    """Share of the scored tokens that the model gives the highest logit."""
    tokens: int
    """Scored ones."""
    pair_loss: float | None = None
    """Nats per sentence pair, where the windows are pairs."""
    pair_accuracy: float | None = None


@torch.no_grad()
def heldout_loss(
    model: Model, scoring: Scoring, batches: HeldOutBatches, windows: int, batch_size: int, sequences: SequenceGroup = ALONE
) -> HeldOut:
    """Return what the model makes of the first `windows` held-out windows; a collective call.

    `sequences` are the ranks that share a window. Raises UserError on every rank
    where one reads data that is damaged.
    """
    windows = min(windows, len(batches))
    # Every rank runs as many batches as the others, since ZeRO-3's forward is collective: the last window
    # fills up, unscored.
    share = -(-windows // sequences.data_parallel_size)
    mine = np.arange(share) + sequences.data_parallel_rank * share
    # On the device, and fetched once: loss and right answers of tokens, and those of pairs.
    sums = torch.zeros(4, dtype=torch.float64, device=distributed.device())
    scored = scored_pairs = 0
    with Meter("held-out loss", share, "windows") as meter:
        for batch in map(sequences.sliced, _read(batches, mine, windows, batch_size)):
            with scoring(batch.labels) as labels:
                logits = model(**batch.inputs(distributed.device()))
            losses = summed_losses(logits, labels, batch.pair_labels)
            found = [losses.tokens, right(logits.tokens, labels)]
            if losses.pairs is not None and logits.pairs is not None and batch.pair_labels is not None:
                found += [losses.pairs, right(logits.pairs, batch.pair_labels)]
            sums[: len(found)] += torch.stack([one.double() for one in found])
            scored, scored_pairs = scored + batch.scored, scored_pairs + batch.scored_pairs
            meter.advance(len(batch.input_ids))
            beat()
    loss, accurate, pair_loss, judged, tokens, pairs = distributed.total(*sums.tolist(), scored, scored_pairs)
    of_pairs = (pair_loss / pairs, judged / pairs) if pairs else ()
    return HeldOut(loss / max(tokens, 1), accurate / max(tokens, 1), int(tokens), *of_pairs)


def _read(batches: HeldOutBatches, mine: np.ndarray, windows: int, batch_size: int) -> Iterator[Batch]:
    """Yield this rank's batches; those beyond the windows are not scored.

    Some are read at a time, and the ranks agree that all could be: a rank without a batch would leave the others waiting.
    """

    def read(indices: np.ndarray) -> Batch:
        batch = batches.heldout(np.minimum(indices, windows - 1))
        batch.ignore(torch.from_numpy(indices >= windows))
        return batch

    split = [mine[begin : begin + batch_size] for begin in range(0, len(mine), batch_size)]
    for begin in range(0, len(split), _READ_TOGETHER):
        yield from distributed.on_every_rank(partial(list, map(read, split[begin : begin + _READ_TOGETHER])))
