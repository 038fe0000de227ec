"""How well a model predicts tokens: rows of tokens in, log-likelihoods out, shared over the ranks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import log_softmax
from transformers import PreTrainedModel

from pipeline.common.heartbeat import beat
from pipeline.common.progress import Meter
from pipeline.evaluation.rows import Row, Sums


@dataclass(frozen=True, slots=True)
class Scorer:
    """How a model is run, so that nobody here need know what runs it."""

    module: PreTrainedModel
    """The Hugging Face model; where it is partitioned it is run by `logits` alone."""
    logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Inputs and attention mask, int64 [sequences, S] each, to logits [sequences, S, vocab], or what `scored_only` makes
    of those; on more than one rank a collective call."""
    device: torch.device
    rank: int
    ranks: int
    total: Callable[..., list[float]]
    """Each of some numbers, summed over the ranks."""
    name: str = "model"
    """What the model is called where progress is shown."""


@torch.no_grad()
def score_rows(scorer: Scorer, rows: Sequence[Row], batch_size: int, title: str) -> Sums:
    """Return what a model makes of rows, which every rank has alike and does its share of; a collective call.

    The sums depend on neither ranks nor batch size, but for rounding. Progress is shown under `title`.
    """
    # Rows of a length go together, so that little is padded; each rank has some of every length.
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number].tokens))
    mine = order[scorer.rank :: scorer.ranks]
    # ZeRO-3's forward is collective: every rank runs as many batches as the others.
    share = -(-len(rows) // scorer.ranks)
    sums = torch.zeros(5, dtype=torch.float64)
    of_ranks = "" if scorer.ranks == 1 else f" of the first of {scorer.ranks} ranks"
    # By tokens, since the longest rows go first.
    with Meter(title, sum(len(rows[number].tokens) for number in mine), "tokens") as meter:
        for begin in range(0, share, batch_size):
            batch = [rows[number] for number in mine[begin : begin + batch_size]]
            sums += _score_batch(scorer, batch or [Row(rows[0].tokens, range(0), [])], counted=len(batch))
            meter.advance(sum(len(row.tokens) for row in batch))
            meter.note = f"{min(begin + batch_size, len(mine)):,} of {len(mine):,} windows" + of_ranks
            beat()
    log_likelihood, tokens, right, counted, rows_right = scorer.total(*sums.tolist())
    return Sums(log_likelihood, int(tokens), int(right), int(counted), int(rows_right))


def _score_batch(scorer: Scorer, batch: list[Row], counted: int) -> torch.Tensor:
    """Log-likelihood, tokens, right ones, rows, rows that are right, of one batch; float64."""
    length = max(len(row.tokens) for row in batch)
    # RoBERTa counts positions from its own; old Llama configurations have -1.
    padding = max(getattr(scorer.module.config, "pad_token_id", None) or 0, 0)
    # On the right: what a causal model reads later does not touch what it says before.
    inputs = torch.tensor([row.tokens + [padding] * (length - len(row.tokens)) for row in batch])
    mask = torch.tensor([[1] * len(row.tokens) + [0] * (length - len(row.tokens)) for row in batch])
    places = torch.tensor([number * length + place for number, row in enumerate(batch) for place in row.positions])
    targets = torch.tensor([target for row in batch for target in row.targets])
    with scored_only(scorer.module, places.long().to(scorer.device)):
        logits = scorer.logits(inputs.to(scorer.device), mask.to(scorer.device))
    of_row = torch.tensor([number for number, row in enumerate(batch) for _ in row.positions], dtype=torch.long)
    likelihoods, right = _compare(logits, targets.long().to(scorer.device))
    wrong = torch.zeros(len(batch), dtype=torch.float64).index_add_(0, of_row, 1 - right)
    rows_right = (wrong == 0).sum().item() if counted else 0
    return torch.tensor([likelihoods.sum().item(), len(targets), right.sum().item(), counted, rows_right], dtype=torch.float64)


_CHUNK = 512
"""Positions whose logits are taken to float32 at once."""


def _compare(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The targets' log-likelihoods, and whether each had the highest logit; float64 [n], on the host."""
    likelihoods, right = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    for some, expected in zip(logits.split(_CHUNK), targets.split(_CHUNK), strict=True):
        spread = log_softmax(some.float(), dim=-1)
        likelihoods.append(spread.gather(1, expected[:, None]).squeeze(1).double().cpu())
        right.append((some.argmax(dim=-1) == expected).double().cpu())
    return torch.cat(likelihoods), torch.cat(right)


@contextmanager
def scored_only(model: PreTrainedModel, places: torch.Tensor) -> Iterator[None]:
    """Have a model's output matrix see some places alone of the flattened positions: logits come out [places, vocab].

    Most of a small model's work is the output matrix, and most of a large vocabulary's memory its logits.
    """

    def select(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *others = inputs
        return (hidden.flatten(0, -2).index_select(0, places), *others)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
