"""The grown model beside its source, on held-out text."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.data.batches import Batch
from pipeline.data.objectives import IGNORED
from pipeline.growth.state import Rows, Source
from pipeline.growth.streamed_model import streamed_model
from pipeline.growth.token_rows import CarriedTokens, of_tokens
from pipeline.training import distributed
from pipeline.training.attention import within_documents
from pipeline.training.engine import TrainedModel
from pipeline.training.loop.evaluate import HeldOut, HeldOutBatches, Model, Scoring, heldout_loss
from pipeline.training.loop.running import scoring
from pipeline.training.losses import Logits, logits_of

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


@dataclass(frozen=True, slots=True)
class Text:
    """The held-out text that both models of a growth read."""

    batches: HeldOutBatches
    """`CarriedText` where the tokenizer changed."""
    windows: int
    batch_size: int
    """Windows that a rank reads at a time."""

    def carried(self, carried: CarriedTokens, size: int) -> "Text":
        """The same text in the tokens that source and target both have, where growth changes the tokenizer."""
        return replace(self, batches=CarriedText(self.batches, carried, size))


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model makes of held-out text."""

    heldout: HeldOut
    probed: torch.Tensor
    """Logits of some positions, float64, in one row."""


class CarriedText:
    """Held-out text in the tokens that source and target both have, counted as those.

    New tokens are not scored, and some others stand in their place, by turns: what both models then read is alike.
    """

    def __init__(self, batches: HeldOutBatches, carried: CarriedTokens, size: int) -> None:
        """The target's vocabulary is of `size`."""
        self._batches = batches
        self._number = torch.full((size,), -1)
        count = len(carried.target)
        # Of ids that share a token's row each counts for itself.
        self._number[carried.target] = torch.arange(count)
        self._new = self._number < 0
        self._read = torch.where(self._new, torch.arange(size) % count, self._number)

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self._batches)

    def heldout(self, indices: np.ndarray) -> Batch:
        """Return the batch of these windows."""
        batch = self._batches.heldout(indices)
        scored = batch.labels != IGNORED
        labels = torch.where(scored, self._number[batch.labels.clamp(min=0)], IGNORED)
        return replace(batch, input_ids=self._read[batch.input_ids], labels=torch.where(labels < 0, IGNORED, labels))


def measure_all(grown: TrainedModel, text: Text) -> HeldOut:
    """Return what a grown model makes of the text, over all of its vocabulary; a collective call."""
    grown.engine.eval()
    try:
        scored = partial(scoring, grown.module, grown.family)
        return heldout_loss(grown.logits, scored, text.batches, text.windows, text.batch_size)
    finally:
        grown.engine.train()


def measure_grown(grown: TrainedModel, carried: CarriedTokens, text: Text) -> Measured:
    """Return what a grown model makes of the text, over the tokens that the source has too; a collective call.

    Where the tokenizer changed, the text is `CarriedText`.
    """

    def logits(input_ids: torch.Tensor, **inputs: torch.Tensor) -> Logits:
        found = grown.logits(carried.target.to(input_ids.device)[input_ids], **inputs)
        return found._replace(tokens=of_tokens(found.tokens, carried.target))

    grown.engine.eval()
    try:
        return _measured(logits, partial(scoring, grown.module, grown.family), text)
    finally:
        grown.engine.train()


def measure_growth(
    source: Source, carried: CarriedTokens, after: Measured, text: Text, dtype: torch.dtype, attention: str
) -> dict[str, Any]:
    """Return the losses before and `after` a growth, and by how much it moved a logit; a collective call.

    The source computes in `dtype`, the engine's, and with its implementation of attention, so that the two differ by the
    growth alone; what rounding to `dtype` does to the source is in `rounding`, against float32. The source's
    matrices are read a few rows at a time, so that no rank ever holds it.
    """
    before = _of_source(source, carried, dtype, attention, text)
    unrounded = before if dtype is torch.float32 else _of_source(source, carried, torch.float32, "sdpa", text)
    expected, grown = before.probed, after.heldout
    of_pairs = {"grown_pair_loss": grown.pair_loss, "grown_pair_accuracy": grown.pair_accuracy}
    return {
        "source_loss": before.heldout.loss,
        "grown_loss": grown.loss,
        "grown_accuracy": grown.accuracy,
        "loss_gap": grown.loss - before.heldout.loss,
        "max_logit_difference": (expected - after.probed).abs().max().item(),
        "max_logit": expected.abs().max().item(),
        "rounding": {
            "loss": before.heldout.loss - unrounded.heldout.loss,
            "max_logit_difference": (expected - unrounded.probed).abs().max().item(),
        },
        "scored_tokens": before.heldout.tokens,
        "dtype": str(dtype).removeprefix("torch."),
        **({} if grown.pair_loss is None else of_pairs),
    }


def _of_source(source: Source, carried: CarriedTokens, dtype: torch.dtype, attention: str, text: Text) -> Measured:
    """What the source makes of the text where it computes in `dtype`."""
    state = {name: _OnDevice(tensor) for name, tensor in source.state.items()}
    module = streamed_model(source.family, source.config, state, dtype, attention, distributed.device())

    def logits(input_ids: torch.Tensor, documents: torch.Tensor | None = None, **inputs: torch.Tensor) -> Logits:
        of_documents = {} if documents is None else within_documents(source.family, module.config, documents, dtype)
        found = logits_of(source.family, module(carried.source.to(input_ids.device)[input_ids], **inputs, **of_documents))
        return found._replace(tokens=of_tokens(found.tokens, carried.source))

    return _measured(logits, partial(scoring, module, source.family), text)


def _measured(model: Model, scored: Scoring, text: Text) -> Measured:
    heldout = heldout_loss(model, scored, text.batches, text.windows, text.batch_size)
    return Measured(heldout, _probe(model, text.batches))


@torch.no_grad()
def _probe(model: Model, heldout: HeldOutBatches) -> torch.Tensor:
    """Logits of the last positions that the first window has, and those of its pair, in one row."""
    # One node may see damage that the others do not.
    batch = distributed.on_every_rank(lambda: heldout.heldout(np.zeros(1, dtype=np.int64)))
    # What stands behind a pair is padding.
    end = batch.input_ids.shape[1] if batch.attention_mask is None else int(batch.attention_mask.sum())
    logits = model(**batch.inputs(distributed.device()))
    probed = logits.tokens[0, max(0, end - _PROBE_POSITIONS) : end].flatten()
    return (probed if logits.pairs is None else torch.cat([probed, logits.pairs[0]])).double()
