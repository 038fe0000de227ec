"""The grown model beside its source, on held-out text."""

from collections.abc import Callable
from functools import partial
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
from pipeline.training.evaluate import Model, heldout_loss
from pipeline.training.losses import Logits, logits_of
from pipeline.training.running import scoring

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


def measure_growth(
    source: Source,
    grown: TrainedModel,
    heldout: Batches,
    windows: int,
    dtype: torch.dtype,
    after_batch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return the losses of both models, and by how much the growth moved a logit; a collective call.

    Both are over the source's vocabulary. The engine computes in `dtype`; the source in float32, its matrices read a
    few rows at a time, so that no rank ever holds it. `after_batch` is called after each batch.
    """
    state = {name: _OnDevice(tensor) for name, tensor in source.state.items()}
    small = streamed_model(source.family, source.config, state, torch.float32).to(distributed.device())
    vocabulary = sizes_of(source.config).vocab_size
    grown.engine.eval()
    batch_size = grown.engine.train_micro_batch_size_per_gpu()

    def source_logits(documents: torch.Tensor | None = None, **inputs: torch.Tensor) -> Logits:
        apart = {} if documents is None else within_documents(source.family, small.config, documents, torch.float32)
        return logits_of(source.family, small(**inputs, **apart))

    def grown_logits(**inputs: torch.Tensor) -> Logits:
        logits = grown.logits(**inputs)
        return logits._replace(tokens=logits.tokens[..., :vocabulary])

    before = heldout_loss(source_logits, partial(scoring, small, source.family), heldout, windows, batch_size, after_batch)
    after = heldout_loss(grown_logits, partial(scoring, grown.module, grown.family), heldout, windows, batch_size, after_batch)
    expected, seen = _probe(source_logits, heldout), _probe(grown_logits, heldout)
    grown.engine.train()
    of_pairs = {"grown_pair_loss": after.pair_loss, "grown_pair_accuracy": after.pair_accuracy}
    return {
        "source_loss": before.loss,
        "grown_loss": after.loss,
        "grown_accuracy": after.accuracy,
        "loss_gap": after.loss - before.loss,
        "max_logit_difference": (expected - seen).abs().max().item(),
        "max_logit": expected.abs().max().item(),
        "scored_tokens": before.tokens,
        "dtype": str(dtype).removeprefix("torch."),
        **({} if after.pair_loss is None else of_pairs),
    }


@torch.no_grad()
def _probe(model: Model, heldout: Batches) -> torch.Tensor:
    """Logits of the last positions that the first window has, and those of its pair, in one row."""
    batch = heldout.heldout(np.zeros(1, dtype=np.int64))
    # What stands behind a pair is padding.
    end = batch.input_ids.shape[1] if batch.attention_mask is None else int(batch.attention_mask.sum())
    logits = model(**batch.inputs(distributed.device()))
    probed = logits.tokens[0, max(0, end - _PROBE_POSITIONS) : end].flatten()
    return (probed if logits.pairs is None else torch.cat([probed, logits.pairs[0]])).double()
