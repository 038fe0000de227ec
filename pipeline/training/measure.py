"""The grown model beside its source, on held-out text."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.data.batches import Batches
from pipeline.families import sizes_of
from pipeline.growth.probe import streamed_model
from pipeline.growth.state import Rows, Source
from pipeline.training import distributed
from pipeline.training.attention import within_documents
from pipeline.training.engine import TrainedModel
from pipeline.training.evaluate import HeldOut, Model, heldout_loss
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

    Both are over the source's vocabulary, and both models compute in `dtype`, the engine's, so that they differ by the
    growth alone; what rounding to `dtype` does to the source stands apart (`rounding`, against float32). The source's
    matrices are read a few rows at a time, so that no rank ever holds it. `after_batch` is called after each batch.
    """
    vocabulary = sizes_of(source.config).vocab_size
    grown.engine.eval()
    batch_size = grown.engine.train_micro_batch_size_per_gpu()

    def measured(model: Model, module: nn.Module) -> tuple[HeldOut, torch.Tensor]:
        held = heldout_loss(model, partial(scoring, module, source.family), heldout, windows, batch_size, after_batch)
        return held, _probe(model, heldout)

    def grown_logits(**inputs: torch.Tensor) -> Logits:
        logits = grown.logits(**inputs)
        return logits._replace(tokens=logits.tokens[..., :vocabulary])

    before, expected = measured(*_streamed(source, dtype, grown.module.config._attn_implementation))
    after, seen = measured(grown_logits, grown.module)
    unrounded, plain = before, expected
    if dtype is not torch.float32:
        unrounded, plain = measured(*_streamed(source, torch.float32, "sdpa"))
    grown.engine.train()
    of_pairs = {"grown_pair_loss": after.pair_loss, "grown_pair_accuracy": after.pair_accuracy}
    return {
        "source_loss": before.loss,
        "grown_loss": after.loss,
        "grown_accuracy": after.accuracy,
        "loss_gap": after.loss - before.loss,
        "max_logit_difference": (expected - seen).abs().max().item(),
        "max_logit": expected.abs().max().item(),
        "rounding": {
            "loss": before.loss - unrounded.loss,
            "max_logit_difference": (expected - plain).abs().max().item(),
        },
        "scored_tokens": before.tokens,
        "dtype": str(dtype).removeprefix("torch."),
        **({} if after.pair_loss is None else of_pairs),
    }


def _streamed(source: Source, dtype: torch.dtype, attention: str) -> tuple[Model, nn.Module]:
    """Return the source as it computes in `dtype`, and its module."""
    state = {name: _OnDevice(tensor) for name, tensor in source.state.items()}
    module = streamed_model(source.family, source.config, state, dtype, attention).to(distributed.device())

    def logits(documents: torch.Tensor | None = None, **inputs: torch.Tensor) -> Logits:
        apart = {} if documents is None else within_documents(source.family, module.config, documents, dtype)
        return logits_of(source.family, module(**inputs, **apart))

    return logits, module


@torch.no_grad()
def _probe(model: Model, heldout: Batches) -> torch.Tensor:
    """Logits of the last positions that the first window has, and those of its pair, in one row."""
    # One node may see damage that the others do not.
    batch = distributed.on_every_rank(lambda: heldout.heldout(np.zeros(1, dtype=np.int64)))
    # What stands behind a pair is padding.
    end = batch.input_ids.shape[1] if batch.attention_mask is None else int(batch.attention_mask.sum())
    logits = model(**batch.inputs(distributed.device()))
    probed = logits.tokens[0, max(0, end - _PROBE_POSITIONS) : end].flatten()
    return (probed if logits.pairs is None else torch.cat([probed, logits.pairs[0]])).double()
