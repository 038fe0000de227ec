from collections import Counter

import numpy as np
import pytest

from pipeline.common.errors import UserError
from pipeline.data.batches import rank_samples
from pipeline.data.objectives import IGNORED, CausalObjective, MaskedObjective, objective_for
from pipeline.data.permutation import Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_a_permutation_takes_every_place_once(size):
    places = Permutation(size, ("a",))(np.arange(size))
    assert sorted(places) == list(range(size))


def test_a_permutation_depends_on_its_key_and_mixes():
    first, second = (Permutation(10_000, (key,))(np.arange(10_000)) for key in "ab")
    assert (first == second).mean() < 0.01
    # A random permutation of n has about one fixed point and an uncorrelated order.
    assert (first == np.arange(10_000)).sum() < 10
    assert abs(np.corrcoef(first, np.arange(10_000))[0, 1]) < 0.05


def test_a_permutation_of_a_huge_range_needs_no_index():
    places = Permutation(10**15, ("a",))(np.arange(1000))
    assert len(set(places.tolist())) == 1000 and places.max() < 10**15


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_a_step_takes_the_same_samples_at_any_number_of_ranks(ranks, micro):
    parts = [rank_samples(40, 8, micro, rank, ranks) for rank in range(ranks)]
    assert all(len(part) == 8 // ranks // micro for part in parts)
    assert np.concatenate([batch for part in parts for batch in part]).tolist() == list(range(40, 48))


def test_causal_labels_are_the_next_tokens():
    tokens = np.arange(66).reshape(2, 33)
    inputs, labels = CausalObjective(32).examples(tokens, [(), ()])
    assert inputs.shape == labels.shape == (2, 32)
    assert (inputs[:, 1:] == labels[:, :-1]).all()
    assert (CausalObjective(32).inputs_documents(tokens // 20) == inputs // 20).all()
    labels[:] = IGNORED
    assert (inputs == tokens[:, :-1]).all()


@pytest.fixture
def masked():
    return MaskedObjective(sequence_length=128, vocab_size=1000, cls_id=1, mask_id=4, special_ids=(0, 1, 2, 3, 4))


def example(objective, tokens, key):
    """What one window comes to: inputs and labels."""
    inputs, labels = objective.examples(tokens[None], [key])
    return inputs[0], labels[0]


def test_masking_follows_berts_shares(masked):
    tokens = np.arange(127) + 100
    seen = Counter()
    for sample in range(400):
        inputs, labels = example(masked, tokens, (1, sample))
        whole = np.concatenate([[1], tokens])
        scored = labels != IGNORED
        assert (labels[scored] == whole[scored]).all() and not scored[0]
        assert (inputs[~scored] == whole[~scored]).all()
        seen["scored"] += scored.sum()
        seen["mask"] += (inputs[scored] == 4).sum()
        seen["kept"] += (inputs[scored] == whole[scored]).sum()
    total = 400 * 127
    # Deviations: 0.16 %, 0.5 %, 0.35 % of the respective wholes; four are allowed.
    assert abs(seen["scored"] / total - 0.15) < 0.0065
    assert abs(seen["mask"] / seen["scored"] - 0.8) < 0.02
    assert abs(seen["kept"] / seen["scored"] - 0.1) < 0.015


def test_no_word_turns_into_a_special_token_but_the_mask():
    """Half of this vocabulary is special, so that one draw in two would be."""
    objective = MaskedObjective(sequence_length=128, vocab_size=10, cls_id=0, mask_id=4, special_ids=(0, 1, 2, 3, 4))
    inputs, labels = example(objective, np.full(2000, 7), ("a",))
    assert set(inputs[1:].tolist()) == {4, 5, 6, 7, 8, 9}
    assert (labels != IGNORED).sum() > 200


def test_masks_are_a_function_of_the_sample(masked):
    tokens = np.arange(127) + 100
    first, again, other = (example(masked, tokens, key) for key in ((1, 5), (1, 5), (1, 6)))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_what_a_window_comes_to_does_not_depend_on_the_others(masked):
    tokens = np.arange(3 * 127).reshape(3, 127)
    keys = [(1, sample) for sample in range(3)]
    together = masked.examples(tokens, keys)
    for row in range(3):
        alone = masked.examples(tokens[row : row + 1], keys[row : row + 1])
        assert all(np.array_equal(one[0], all_[row]) for one, all_ in zip(alone, together, strict=True))


def test_cls_belongs_to_the_first_document(masked):
    documents = np.arange(3 * 127).reshape(3, 127) // 50
    seen = masked.inputs_documents(documents)
    assert (seen[:, 0] == documents[:, 0]).all() and (seen[:, 1:] == documents).all()


def test_special_tokens_are_never_scored(masked):
    tokens = np.where(np.arange(127) % 2, 2, 500)
    labels = np.concatenate([example(masked, tokens, (1, sample))[1] for sample in range(50)])
    assert set(labels.tolist()) == {IGNORED, 500}


def test_masking_needs_a_mask_token():
    class Bare:
        cls_id = mask_id = None
        files = ("vocab.json",)

    with pytest.raises(UserError, match="no mask or cls token"):
        objective_for("mlm", Bare(), 32)
