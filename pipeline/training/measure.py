"""The grown model beside its source, on held-out text."""

from typing import Any

import numpy as np
import torch

from pipeline.data.batches import Batches
from pipeline.families import sizes_of
from pipeline.growth.probe import streamed_model
from pipeline.growth.state import Rows, Source
from pipeline.training import distributed
from pipeline.training.attention import within_documents
from pipeline.training.engine import TrainedModel
from pipeline.training.evaluate import Logits, heldout_loss

_PROBE_POSITIONS = 32
"""Positions of one held-out window whose logits are compared."""


class _OnDevice:
    """A tensor whose rows are read onto the device that this rank computes on."""

    def __init__(self, tensor: Rows) -> None:
        self.shape = tensor.shape
        self._tensor = tensor

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        return self._tensor.rows(start, stop).to(distributed.device())


def measure_growth(source: Source, grown: TrainedModel, heldout: Batches, windows: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return the losses of both models, and by how much the growth moved a logit; a collective call.

    Both are over the source's vocabulary. The engine computes in `dtype`; the source in float32, its matrices read a
    few rows at a time, so that no rank ever holds it.
    """
    state = {name: _OnDevice(tensor) for name, tensor in source.state.items()}
    small = streamed_model(source.family, source.config, state, torch.float32).to(distributed.device())
    vocabulary = sizes_of(source.config).vocab_size
    grown.engine.eval()
    batch_size = grown.engine.train_micro_batch_size_per_gpu()

    def source_logits(input_ids: torch.Tensor, documents: torch.Tensor | None) -> torch.Tensor:
        apart = {} if documents is None else within_documents(source.family, small.config, documents, torch.float32)
        return small(input_ids=input_ids, **apart).logits

    def grown_logits(input_ids: torch.Tensor, documents: torch.Tensor | None) -> torch.Tensor:
        return grown.logits(input_ids, documents)[..., :vocabulary]

    before, tokens = heldout_loss(source_logits, heldout, windows, batch_size)
    after, _ = heldout_loss(grown_logits, heldout, windows, batch_size)
    expected, seen = _probe(source_logits, heldout), _probe(grown_logits, heldout)
    grown.engine.train()
    return {
        "source_loss": before,
        "grown_loss": after,
        "loss_gap": after - before,
        "max_logit_difference": (expected - seen).abs().max().item(),
        "max_logit": expected.abs().max().item(),
        "scored_tokens": tokens,
        "dtype": str(dtype).removeprefix("torch."),
    }


@torch.no_grad()
def _probe(logits: Logits, heldout: Batches) -> torch.Tensor:
    """Logits of the last positions of the first window."""
    inputs = heldout.heldout(np.zeros(1, dtype=np.int64)).inputs(distributed.device())
    return logits(*inputs)[0, -_PROBE_POSITIONS:].double()
