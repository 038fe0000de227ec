"""What a model is trained on: the cross-entropy of scored tokens, and of sentence pairs where there are any."""

from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers.utils import ModelOutput

from pipeline.data.objectives import IGNORED
from pipeline.families import Family


class Logits(NamedTuple):
    """What a model says of a batch."""

    tokens: torch.Tensor
    """[sequences, S, vocab], or [scored, vocab] of the scored positions alone, in their order."""
    pairs: torch.Tensor | None
    """[sequences, 2], where there is a head on pairs."""


def logits_of(family: Family, outputs: ModelOutput) -> Logits:
    """Return the logits in what a model of the family returned."""
    return Logits(outputs[family.logits], None if family.pair_logits is None else outputs[family.pair_logits])


class Sums(NamedTuple):
    """Cross-entropies in nats, in fp32, summed over what is scored."""

    tokens: torch.Tensor
    pairs: torch.Tensor | None

    def mean(self, tokens: float, pairs: float) -> torch.Tensor:
        """Return what is minimized: the mean over `tokens` scored tokens and that over `pairs` pairs, added (BERT, A.2).

        Counts of 0 are taken for 1: a small masked batch may score nothing.
        """
        mean = self.tokens / max(tokens, 1)
        return mean if self.pairs is None else mean + self.pairs / max(pairs, 1)


def summed_losses(logits: Logits, labels: torch.Tensor, pair_labels: torch.Tensor | None) -> Sums:
    """Return the summed losses of a batch, which may be part of a step's; `labels` are those of the tokens' logits."""
    return Sums(summed_loss(logits.tokens, labels), None if pair_labels is None else summed_loss(logits.pairs, pair_labels))


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy summed over what is scored, in fp32; `logits` is [..., V], `labels` the same but for V."""
    flat = logits.float().flatten(0, -2)
    return cross_entropy(flat, labels.to(logits.device).flatten(), ignore_index=IGNORED, reduction="sum")


def right(logits: torch.Tensor, labels: torch.Tensor) -> int:
    """Return how many labels have the highest logit; `logits` is [..., V], `labels` the same but for V."""
    # No class has the number IGNORED.
    return int((logits.argmax(dim=-1) == labels.to(logits.device)).sum())
