"""What a model is trained on: the cross-entropy of scored tokens, and of sentence pairs where there are any."""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy
from transformers.utils import ModelOutput

from pipeline.data.objectives import IGNORED
from pipeline.deepspeed.kernels import chunked_cross_entropy
from pipeline.families import Family
from pipeline.training.toolchain import triton_runs

_CPU_CHUNK, _DEVICE_CHUNK = 2**17, 2**26
"""Logits that are taken to fp32 at a time: on a CPU what the cache of each thread holds, on other devices what hides the start
of a kernel."""


class Logits(NamedTuple):
    """A model's outputs for a batch."""

    tokens: torch.Tensor
    """[sequences, S, vocab], or [scored, vocab] of the scored positions alone, in their order; of a head that runs with the
    loss, in training, their summed loss, of no dimension."""
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
    """Return the summed losses of a batch, which may be some of a step's; `labels` are those of the tokens' logits."""
    tokens = logits.tokens if logits.tokens.dim() == 0 else summed_loss(logits.tokens, labels)
    if logits.pairs is None or pair_labels is None:
        return Sums(tokens, None)
    return Sums(tokens, summed_loss(logits.pairs, pair_labels))


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy summed over what is scored, in fp32; `logits` is [..., V], `labels` the same but for V.

    On a GPU by DeepSpeed's kernels, which read the logits once in each direction and write their gradient once.
    """
    logits, labels = logits.flatten(0, -2), labels.to(logits.device).flatten()
    if triton_runs(logits.device):
        return chunked_cross_entropy(logits, labels, IGNORED, reduction="sum", backend="triton")
    return _SummedCrossEntropy.apply(logits, labels)


class _SummedCrossEntropy(torch.autograd.Function):
    """torch's cross_entropy of logits taken to fp32, a chunk of rows at a time in both directions.

    The logits of a batch are its largest tensor; torch would keep an fp32 copy for the backward pass and make a second one
    there. This keeps the logits as they are.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sum; `logits` is [N, V], `labels` int64 [N]."""
        ctx.save_for_backward(logits, labels)
        rows = _rows(logits)
        chunks = zip(logits.split(rows), labels.split(rows), strict=True)
        return torch.stack(
            [cross_entropy(some.float(), theirs, ignore_index=IGNORED, reduction="sum") for some, theirs in chunks]
        ).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the logits' gradient, (softmax - one-hot of the label) x `gradient` in each row that is scored."""
        logits, labels = ctx.saved_tensors
        rows, returned = _rows(logits), torch.empty_like(logits)
        factors = (gradient * (labels != IGNORED)).unsqueeze(1)
        # A row of factor 0 takes any class.
        classes = labels.clamp(min=0).unsqueeze(1)
        ones = logits.new_ones(1, 1, dtype=torch.float32)
        chunks = (tensor.split(rows) for tensor in (logits, classes, factors, returned))
        for some, theirs, factor, into in zip(*chunks, strict=True):
            chunk = torch.softmax(some, dim=-1, dtype=torch.float32)
            chunk.scatter_add_(1, theirs, -ones.expand_as(theirs))
            # In fp32 up to here: fp16 cannot hold a probability that a loss scale has not multiplied yet.
            into.copy_(chunk.mul_(factor))
        return returned, None


def _rows(logits: torch.Tensor) -> int:
    """How many rows are a chunk."""
    # torch shares out rows among threads: of one thread's share alone the others would have none.
    elements = _CPU_CHUNK * torch.get_num_threads() if logits.device.type == "cpu" else _DEVICE_CHUNK
    return max(1, elements // logits.shape[-1])


def right(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return, on the logits' device, how many labels have the highest logit; `logits` is [..., V], `labels` [...]."""
    # No class has the number IGNORED.
    return (logits.argmax(dim=-1) == labels.to(logits.device)).sum()
