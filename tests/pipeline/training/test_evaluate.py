"""The loss on held-out windows: its figures, and how often the host waits for the device."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline.data.objectives import IGNORED
from pipeline.training import distributed
from pipeline.training.loop.evaluate import heldout_loss
from pipeline.training.losses import Logits
from tests.waits import Waits

LENGTH, VOCAB = 6, 11


class MadeUp:
    """Windows of drawn ids whose batches tell the host what it asks of them; the device has the rest."""

    def __init__(self, windows: int, *, pairs: bool) -> None:
        torch.manual_seed(windows)
        self.ids = torch.randint(VOCAB, (windows, LENGTH))
        self.labels = torch.where(torch.rand(windows, LENGTH) < 0.7, torch.randint(VOCAB, (windows, LENGTH)), IGNORED)
        self.pairs = torch.randint(2, (windows,)) if pairs else None

    def __len__(self) -> int:
        return len(self.ids)

    def heldout(self, indices):
        ids, labels = self.ids[indices], self.labels[indices]
        return SimpleNamespace(
            input_ids=ids,
            labels=labels,
            pair_labels=None if self.pairs is None else self.pairs[indices],
            scored=int((labels.numpy() != IGNORED).sum()),
            scored_pairs=0 if self.pairs is None else len(ids),
            inputs=lambda device: {"input_ids": ids},
            ignore=lambda sequences: None,
        )


def model(input_ids: torch.Tensor) -> Logits:
    """Logits that depend on the ids alone."""
    tokens = torch.cos(input_ids.unsqueeze(-1) * torch.arange(1.0, VOCAB + 1))
    return Logits(tokens, tokens[:, 0, :2])


def evaluated(text: MadeUp, batch_size: int = 2):
    one = model if text.pairs is not None else lambda input_ids: model(input_ids)._replace(pairs=None)
    return heldout_loss(one, nullcontext, text, len(text), batch_size)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(distributed, "on_every_rank", lambda work: work())


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("windows", [1, 2, 40])
def test_the_figures_are_those_of_all_windows_at_once(windows, pairs):
    text = MadeUp(windows, pairs=pairs)
    logits, seen = model(text.ids), evaluated(text)
    scored = text.labels != IGNORED
    assert seen.tokens == scored.sum()
    assert seen.loss == pytest.approx(cross_entropy(logits.tokens[scored], text.labels[scored]).item(), rel=1e-6)
    assert seen.accuracy == pytest.approx((logits.tokens.argmax(-1) == text.labels)[scored].float().mean().item())
    if pairs:
        assert seen.pair_loss == pytest.approx(cross_entropy(logits.pairs, text.pairs).item(), rel=1e-6)
        assert seen.pair_accuracy == pytest.approx((logits.pairs.argmax(-1) == text.pairs).float().mean().item())


@pytest.mark.parametrize("pairs", [False, True])
def test_the_host_waits_for_the_device_once_however_many_batches_there_are(pairs):
    counts = []
    for windows in (2, 40):
        with Waits() as waits:
            evaluated(MadeUp(windows, pairs=pairs))
        # What the batches look at lies on the host.
        counts.append([line for line in waits.seen if " at test_evaluate.py" not in line])
    assert [len(seen) for seen in counts] == [1, 1], counts
