import dataclasses

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from pipeline.data.batches import Batch, Batches, Corpus, PackedBatches, UnpackedBatches, rank_samples
from pipeline.data.blend import BLOCK
from pipeline.data.examples import WindowExamples
from pipeline.data.objectives import IGNORED, CausalObjective, MaskedObjective
from tests.shards import MemoryShard

LENGTH = 8
MASKED = MaskedObjective(LENGTH, 100_000, 2, 4, (0, 1, 2, 3, 4))


def corpus(name, weight, windows, first, objective):
    """Its tokens say which corpus and which window they are from."""
    tokens = np.arange(first, first + windows * objective.window[1] + 1)
    return Corpus(name, weight, WindowExamples([MemoryShard(tokens)], objective, within_documents=False))


def last_tokens(batch):
    """The last token of each window, masked or not."""
    return torch.where(batch.labels == IGNORED, batch.input_ids, batch.labels)[:, -1]


@pytest.mark.parametrize("objective", [CausalObjective(LENGTH), MASKED], ids=["clm", "mlm"])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.9, 0.1)])
def test_another_corpus_changes_nothing_in_the_order_or_the_masks_of_the_first(objective, weights):
    a = corpus("a", weights[0], 50, 1000, objective)
    blend = Batches([corpus("b", weights[1], 31, 50_000, objective), a], 7)
    batch = blend.training(np.arange(400))
    mine = last_tokens(batch) < 50_000
    assert 0 < mine.sum() < 400
    alone = Batches([a], 7).training(np.arange(int(mine.sum())))
    for column in ("input_ids", "labels"):
        assert torch.equal(getattr(batch, column)[mine], getattr(alone, column)), column


def test_an_epoch_of_each_corpus_takes_each_of_its_windows_once():
    objective = CausalObjective(LENGTH)
    batches = Batches([corpus("a", 3, 40, 0, objective), corpus("b", 1, 9, 5000, objective)], 7)
    seen = batches.training(np.arange(2000)).input_ids[:, 0].numpy()
    for mine, windows in ((seen[seen < 5000], 40), (seen[seen >= 5000], 9)):
        for epoch in range(len(mine) // windows):
            assert len(set(mine[windows * epoch : windows * (epoch + 1)].tolist())) == windows


@pytest.mark.parametrize("position", [0, BLOCK - 8])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_out_the_very_samples_that_one_takes(ranks, position):
    """Resuming is the same: a position is a number of samples, whoever took them."""
    batches = Batches([corpus("a", 3, 40, 1000, MASKED), corpus("b", 1, 9, 5000, MASKED)], 7)
    whole = batches.training(np.arange(position, position + 16))
    parts = [batches.training(s) for rank in range(ranks) for s in rank_samples(position, 16, 2, rank, ranks)]
    assert torch.equal(torch.cat([part.input_ids for part in parts]), whole.input_ids)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_held_out_windows_of_one_corpus_keep_their_order_and_their_masks():
    objective = CausalObjective(LENGTH)
    batches = Batches([corpus("a", 1.0, 20, 0, objective)], 7)
    assert batches.heldout(np.arange(20)).input_ids[:, 0].tolist() == list(range(0, 160, LENGTH))
    batches = Batches([corpus("a", 0.5, 20, 1000, MASKED), corpus("b", 0.5, 20, 5000, MASKED)], 7)
    whole = batches.heldout(np.arange(30))
    assert (last_tokens(whole) >= 5000).sum() == 15
    for index in (0, 7, 29):
        assert torch.equal(batches.heldout(np.array([index])).input_ids[0], whole.input_ids[index])


def test_documents_come_with_a_batch_that_keeps_them_apart():
    shard = MemoryShard(np.arange(100), starts=[0, 3, 5, 40])
    for objective, first in [(CausalObjective(LENGTH), [0, 0, 0, 1, 1, 2, 2, 2]), (MASKED, [0, 0, 0, 0, 1, 1, 2, 2])]:
        examples = (WindowExamples([shard], objective, within_documents=apart) for apart in (True, False))
        apart, together = (Batches([Corpus("a", 1.0, each)], 1).heldout(np.arange(2)) for each in examples)
        assert apart.inputs(torch.device("cpu"))["documents"].tolist() == [first, [0] * 8]
        assert together.inputs(torch.device("cpu")).keys() == {"input_ids"}
        assert torch.equal(together.input_ids, apart.input_ids) and torch.equal(together.labels, apart.labels)


def a_step(kind):
    """Micro-batches of one kind: with documents, masked with places, or pairs."""
    draw = torch.Generator().manual_seed(3)

    def ids(*shape):
        return torch.randint(0, 50, shape, generator=draw)

    def batch():
        labels = ids(2, LENGTH)
        if kind == "documents":
            return Batch(ids(2, LENGTH), labels, documents=ids(2, LENGTH))
        labels[labels > 9] = IGNORED
        if kind == "masked":
            return Batch(ids(2, LENGTH), labels).located()
        return Batch(ids(2, LENGTH), labels, None, ids(2, LENGTH), ids(2, LENGTH), ids(2)).located()

    return [batch() for _ in range(3)]


class Copies(TorchFunctionMode):
    """The copies to another device, and whether the host goes on meanwhile."""

    def __init__(self):
        self.made = []

    def __torch_function__(self, function, types, arguments=(), options=None):
        if function in (torch.Tensor.to, torch.Tensor.copy_, torch.Tensor.cuda):
            self.made.append((options or {}).get("non_blocking"))
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("kind", ["documents", "masked", "pairs"])
def test_a_steps_batches_go_to_the_device_by_one_copy_and_are_what_they_were(kind):
    step = a_step(kind)
    for packed in (PackedBatches(step, pinned=False), UnpackedBatches(step)):
        assert packed.scored == sum(int((batch.labels != IGNORED).sum()) for batch in step)
        for batch, moved in zip(step, packed.on(torch.device("cpu")), strict=True):
            for field in dataclasses.fields(Batch):
                expected, seen = getattr(batch, field.name), getattr(moved, field.name)
                assert (expected is None and seen is None) or torch.equal(expected, seen), field.name
    # There is no copy to a device that is the host.
    assert UnpackedBatches(step).on(torch.device("cpu"))[0] is step[0]
    with Copies() as copies:
        there = PackedBatches(step, pinned=False).on(torch.device("meta"))
        inputs = there[0].inputs(torch.device("meta"))
    assert {tensor.device.type for tensor in inputs.values()} == {"meta"}
    # The last ones, of inputs that are there, copy nothing.
    assert copies.made == [True] + [None] * len(inputs)


def test_places_are_those_of_the_scored_positions():
    for batch in a_step("masked"):
        assert torch.equal(batch.labels.flatten()[batch.scored_positions], batch.labels[batch.labels != IGNORED])
