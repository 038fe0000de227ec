"""The grown model beside its source, on held-out text."""

from typing import Any

import numpy as np
import torch

from pipeline.data.batches import Batches
from pipeline.growth.plain_model import plain_model
from pipeline.growth.state import Source
from pipeline.training import distributed
from pipeline.training.engine import TrainedModel
from pipeline.training.evaluate import Logits, heldout_loss

_PROBE_POSITIONS = 32
"""Positions of one held-out window whose logits are compared."""


def measure_growth(
    source: Source, grown: TrainedModel, heldout: Batches, windows: int, dtype: torch.dtype, attn_implementation: str
) -> dict[str, Any]:
    """Return the losses of both models, and by how much the growth moved a logit; a collective call.

    Every rank holds the whole source meanwhile, in the dtype that the engine runs in.
    """
    config = source.config
    config._attn_implementation = attn_implementation
    small = plain_model(source.family, config, source.state, dtype)
    small.to(distributed.device()).eval()
    grown.engine.eval()
    batch_size = grown.engine.train_micro_batch_size_per_gpu()

    def source_logits(input_ids: torch.Tensor) -> torch.Tensor:
        return small(input_ids=input_ids).logits

    before, tokens = heldout_loss(source_logits, heldout, windows, batch_size)
    after, _ = heldout_loss(grown.logits, heldout, windows, batch_size)
    difference = (_probe(source_logits, heldout) - _probe(grown.logits, heldout)).abs().max().item()
    grown.engine.train()
    return {
        "source_loss": before,
        "grown_loss": after,
        "loss_gap": after - before,
        "max_logit_difference": difference,
        "scored_tokens": tokens,
        "dtype": str(dtype).removeprefix("torch."),
    }


@torch.no_grad()
def _probe(logits: Logits, heldout: Batches) -> torch.Tensor:
    """Logits of the last positions of the first window."""
    input_ids = heldout.heldout(np.zeros(1, dtype=np.int64)).input_ids.to(distributed.device())
    return logits(input_ids)[0, -_PROBE_POSITIONS:].double()
