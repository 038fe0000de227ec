"""Loss on held-out windows, the same to the last windows at any number of ranks."""

from collections.abc import Callable

import numpy as np
import torch

from pipeline.data.batches import Batches
from pipeline.data.objectives import IGNORED
from pipeline.training import distributed

Logits = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""[sequences, S] ids, and their documents where those are kept apart, to [sequences, S, vocab] logits."""


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy summed over scored positions, in fp32."""
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.to(logits.device).flatten(), ignore_index=IGNORED, reduction="sum"
    )


@torch.no_grad()
def heldout_loss(logits: Logits, batches: Batches, windows: int, batch_size: int) -> tuple[float, int]:
    """Return (mean loss in nats per scored token, scored tokens) over the first `windows` held-out windows."""
    windows = min(windows, len(batches))
    ranks = distributed.world_size()
    # Every rank runs as many batches as the others, since ZeRO-3's forward is collective: the last window
    # fills up, unscored.
    share = -(-windows // ranks)
    mine = np.arange(distributed.rank() * share, (distributed.rank() + 1) * share)
    loss = tokens = 0.0
    for begin in range(0, share, batch_size):
        indices = mine[begin : begin + batch_size]
        batch = batches.heldout(np.minimum(indices, windows - 1))
        batch.labels[torch.from_numpy(indices >= windows)] = IGNORED
        loss += summed_loss(logits(*batch.inputs(distributed.device())), batch.labels).item()
        tokens += batch.scored
    loss, tokens = distributed.total(loss, tokens)
    return loss / max(tokens, 1), int(tokens)
