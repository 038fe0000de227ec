"""The losses against those of Hugging Face's own classes."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

from pipeline.data.batches import Batch
from pipeline.data.objectives import IGNORED
from pipeline.families import family_of
from pipeline.training.losses import logits_of, right, summed_losses
from pipeline.training.running import scoring

SEQUENCES, LENGTH, VOCAB = 6, 10, 40
SAME = 1e-6
"""Losses of some 4, in float32."""


def model_of(model_class):
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
        architectures=[model_class.__name__],
    )
    return model_class(config).eval()


def batch_of(pairs=True):
    draw = torch.Generator().manual_seed(5)
    ids = torch.randint(5, VOCAB, (SEQUENCES, LENGTH), generator=draw)
    labels = torch.where(torch.rand(SEQUENCES, LENGTH, generator=draw) < 0.3, ids, IGNORED)
    if not pairs:
        return Batch(ids, labels)
    lengths = torch.arange(5, 5 + SEQUENCES)[:, None]
    places = torch.arange(LENGTH)
    seen = (places < lengths).long()
    labels = torch.where(seen == 1, labels, IGNORED)
    return Batch(
        ids,
        labels,
        token_type_ids=((places >= lengths // 2) & (places < lengths)).long(),
        attention_mask=seen,
        pair_labels=torch.tensor([0, 1, 1, 0, 1, 0]),
    )


def sums_of(model, batch):
    logits = logits_of(family_of(model.config), model(**batch.inputs(torch.device("cpu"))))
    return summed_losses(logits, batch.labels, batch.pair_labels)


def sums_of_scored(model, batch):
    """The same, the head run on the scored positions alone."""
    family = family_of(model.config)
    with scoring(model, family, batch.labels) as labels:
        logits = logits_of(family, model(**batch.inputs(torch.device("cpu"))))
    assert logits.tokens.shape == (batch.scored, VOCAB)
    return summed_losses(logits, labels, batch.pair_labels)


def test_the_two_means_added_are_berts_pre_training_loss():
    model, batch = model_of(BertForPreTraining), batch_of()
    theirs = model(**batch.inputs(torch.device("cpu")), labels=batch.labels, next_sentence_label=batch.pair_labels).loss
    ours = sums_of(model, batch).mean(batch.scored, batch.scored_pairs)
    assert ours.item() == pytest.approx(theirs.item(), abs=SAME)
    theirs.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    ours.backward()
    for name, parameter in model.named_parameters():
        # Float32 sums of a few hundred products, in another order.
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-4, atol=1e-6), name


def test_without_pairs_it_is_the_loss_of_masked_words():
    model, batch = model_of(BertForMaskedLM), batch_of(pairs=False)
    theirs = model(input_ids=batch.input_ids, labels=batch.labels).loss
    sums = sums_of(model, batch)
    assert sums.pairs is None and batch.scored_pairs == 0
    assert sums.mean(batch.scored, 0).item() == pytest.approx(theirs.item(), abs=SAME)


def test_parts_of_a_batch_add_up_to_it():
    model, batch = model_of(BertForPreTraining), batch_of()
    fields = ("input_ids", "labels", "token_type_ids", "attention_mask", "pair_labels")
    parts = [Batch(**{name: getattr(batch, name)[rows] for name in fields}) for rows in (slice(0, 1), slice(1, 6))]
    means = [sums_of(model, part).mean(batch.scored, batch.scored_pairs) for part in parts]
    whole = sums_of(model, batch).mean(batch.scored, batch.scored_pairs)
    assert sum(means).item() == pytest.approx(whole.item(), abs=SAME)


def test_the_head_run_on_the_scored_positions_alone_comes_to_the_same():
    model, batch = model_of(BertForPreTraining), batch_of()
    some, whole = sums_of_scored(model, batch), sums_of(model, batch)
    assert some.tokens.item() == pytest.approx(whole.tokens.item(), rel=SAME)
    assert some.pairs.item() == whole.pairs.item()


@pytest.mark.parametrize("sums", [sums_of, sums_of_scored])
def test_a_batch_that_scores_nothing_has_a_loss_of_nothing_and_a_gradient(sums):
    model, batch = model_of(BertForPreTraining), batch_of()
    batch.ignore(torch.ones(SEQUENCES, dtype=torch.bool))
    assert (batch.scored, batch.scored_pairs) == (0, 0)
    loss = sums(model, batch).mean(batch.scored, batch.scored_pairs)
    loss.backward()
    assert loss.item() == 0 and not model.bert.pooler.dense.weight.grad.any()


def test_ignored_sequences_count_nowhere():
    model, batch = model_of(BertForPreTraining), batch_of()
    fields = ("input_ids", "labels", "token_type_ids", "attention_mask", "pair_labels")
    first = Batch(**{name: getattr(batch, name)[:4].clone() for name in fields})
    batch.ignore(torch.arange(SEQUENCES) >= 4)
    assert (batch.scored, batch.scored_pairs) == (first.scored, 4)
    some, all_of_them = sums_of(model, first), sums_of(model, batch)
    assert some.tokens.item() == pytest.approx(all_of_them.tokens.item(), rel=SAME)
    assert some.pairs.item() == pytest.approx(all_of_them.pairs.item(), rel=SAME)


def test_what_is_right_is_counted_and_what_is_ignored_is_not():
    logits = torch.tensor([[[0.0, 2.0], [3.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    assert right(logits, torch.tensor([[1, 1], [IGNORED, 1]])) == 2
    assert right(logits[0], torch.tensor([1, 0])) == 2
