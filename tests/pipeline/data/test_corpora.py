import numpy as np
import pytest

from pipeline.common.errors import UserError
from pipeline.data.corpora import effective_weights, open_batches
from pipeline.data.objectives import CausalObjective, MaskedObjective
from tests.shards import write_prepared

LENGTH = 8
MASKED = MaskedObjective(16, 100, 2, 4, (0, 1, 2, 3, 4))


def document(value, count):
    return [[value] * count]


def opened(data, weights, length=LENGTH):
    return open_batches(data, weights, CausalObjective(length), 7, within_documents=False)


@pytest.fixture
def two(tmp_path):
    """A corpus of two training shards, 120 tokens, and one of 40; held out are 30 and 20."""
    corpora = {
        "wiki": ([[document(10, 50)], [document(11, 40), document(12, 30)]], [[document(13, 30)]]),
        "books": ([[document(20, 40)]], [[document(21, 20)]]),
    }
    return lambda **weights: write_prepared(tmp_path, corpora, **weights)


def test_weights_are_the_recipes_or_by_tokens(two):
    data = two()
    assert effective_weights(data, None, LENGTH) == ({"wiki": 0.75, "books": 0.25}, {})
    assert effective_weights(data, {"books": 3, "wiki": 1}, LENGTH) == ({"wiki": 0.25, "books": 0.75}, {})


def test_weights_of_the_manifest(two):
    data = two(wiki=1, books=4)
    assert effective_weights(data, None, LENGTH) == ({"wiki": 0.2, "books": 0.8}, {})
    assert effective_weights(data, {"wiki": 1, "books": 1}, LENGTH) == ({"wiki": 0.5, "books": 0.5}, {})


def test_a_corpus_that_the_recipe_does_not_name_is_left_out(two):
    data = two(wiki=1, books=4)
    weights, left_out = effective_weights(data, {"books": 7}, LENGTH)
    assert (weights, left_out) == ({"books": 1.0}, {})
    training, heldout = opened(data, weights)
    assert training.training(np.arange(100)).input_ids.unique().tolist() == [20]
    assert heldout.heldout(np.arange(2)).input_ids.unique().tolist() == [21] and len(heldout) == 2


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"wiky": 1, "books": 1}, r"data\.weights: no corpus 'wiky' in the prepared data; did you mean 'wiki'\?"),
        ({"x": 1}, "prepared are: wiki, books"),
        ({"wiki": 1, "books": 1e-9}, r"^data\.weights: the weight of the corpus 'books' comes to no sample in 65536"),
    ],
)
def test_weights_name_no_other_corpus_and_come_to_samples(two, chosen, words):
    with pytest.raises(UserError, match=words):
        effective_weights(two(), chosen, LENGTH)


def test_a_weight_of_the_manifest_that_comes_to_no_sample_is_refused_by_where_it_stands(two, tmp_path):
    with pytest.raises(UserError, match=rf"^{tmp_path}: the weight of the corpus 'books' comes to no sample"):
        effective_weights(two(wiki=1, books=1e-9), None, LENGTH)


def test_a_blend_by_tokens_leaves_out_what_makes_no_window(two):
    data = two()
    assert effective_weights(data, None, 40)[0] == {"wiki": 0.75, "books": 0.25}
    weights, left_out = effective_weights(data, None, 41)
    assert weights == {"wiki": 1.0}
    assert left_out == {"books": "its training shards make no window of 41 tokens"}
    training, heldout = opened(data, weights, 29)
    assert (len(training), len(heldout)) == (1 + 2, 1)
    with pytest.raises(UserError, match="the train split of wiki, books makes no window of 71 tokens"):
        effective_weights(data, None, 71)


def test_a_blend_by_tokens_leaves_out_what_comes_to_no_sample(tmp_path):
    held = [[document(9, 9)]]
    sizes = {"a": 600_000, "b": 400_000, "c": 4}
    data = write_prepared(tmp_path, {name: ([[document(9, size)]], held) for name, size in sizes.items()})
    weights, left_out = effective_weights(data, None, 4)
    assert weights == {"a": 0.6, "b": 0.4}
    assert left_out == {"c": "by its tokens it comes to no sample in 65,536"}
    # 8 in 100,000 are five samples in 65,536.
    assert effective_weights(data, {"a": 1, "c": 8e-5}, 4)[0].keys() == {"a", "c"}


@pytest.mark.parametrize("weights", [{}, {"wiki": 1, "copies": 2}], ids=["by tokens", "by weight"])
def test_a_corpus_of_which_nothing_is_left_is_in_no_blend(tmp_path, weights):
    corpora = {"wiki": ([[document(10, 50)]], [[document(13, 30)]]), "copies": ([], [[document(21, 20)]])}
    data = write_prepared(tmp_path, corpora, **weights)
    shares, left_out = effective_weights(data, None, LENGTH)
    assert (shares, left_out) == ({"wiki": 1.0}, {"copies": "it has no training token"})
    assert len(opened(data, shares)[1]) == 3
    # Whoever asks for it by name learns why.
    shares, _ = effective_weights(data, {"wiki": 1, "copies": 2}, LENGTH)
    with pytest.raises(UserError, match="the train split of copies makes no window"):
        opened(data, shares)


def test_prepared_corpora_are_opened_as_batches(two):
    training, heldout = opened(two(), {"wiki": 0.5, "books": 0.5})
    # 6 + 8 windows of 8 tokens and the next one, and 4; held out 3 and 2.
    assert (len(training), len(heldout)) == (6 + 8 + 4, 3 + 2)
    seen = training.training(np.arange(100)).input_ids.unique().tolist()
    assert seen == [10, 11, 12, 20]
    assert heldout.heldout(np.arange(4)).input_ids[:, 0].tolist() == [13, 21, 13, 21]


@pytest.mark.parametrize(("length", "words"), [(50, "the train split of books"), (30, "the heldout split of wiki, books")])
def test_too_little_text_for_one_window_is_refused(two, length, words):
    with pytest.raises(UserError, match=f"{words} makes no window of {length + 1} tokens"):
        opened(two(), {"wiki": 0.5, "books": 0.5}, length)


def test_a_shard_that_is_not_the_prepared_one_is_refused(two):
    data = two()
    for kind in (".bin", ".idx"):
        (data.directory / f"wiki-train-0{kind}").write_bytes((data.directory / f"books-train-0{kind}").read_bytes())
    with pytest.raises(UserError, match=r"wiki-train-0\.idx: 40 tokens where manifest.json has 50"):
        opened(data, {"wiki": 0.5, "books": 0.5})


def story(first, sentences):
    return [[first + number] * 3 for number in range(sentences)]


def test_prepared_sentences_are_opened_as_pairs(tmp_path):
    held = [[story(10, 3), story(20, 3)]]
    corpora = {"wiki": ([[story(30, 4), story(40, 5)], [story(50, 6)]], held), "books": ([[story(60, 4), story(70, 2)]], held)}
    data = write_prepared(tmp_path, corpora)
    weights = effective_weights(data, None, 2)[0]
    training, heldout = open_batches(data, weights, MASKED, 7, within_documents=False, pairs="nsp")
    assert (len(training), len(heldout)) == (4 + 5 + 6 + 4 + 2, 12)
    batch = training.training(np.arange(200))
    assert batch.scored_pairs == 200 and batch.token_type_ids.shape == (200, 16)
    # Words of every document but those that were held out.
    words = {10 * (word // 10) for word in batch.input_ids.unique().tolist() if word >= 10}
    assert words >= {30, 40, 50, 60, 70} and heldout.heldout(np.arange(5)).scored_pairs == 5


@pytest.mark.parametrize(
    ("corpora", "objective", "kind", "words"),
    [
        (([[document(10, 50), document(11, 40)]], [[document(12, 20)]]), MASKED, "nsp", "'wiki' in .* are whole documents"),
        (([[story(10, 3), story(20, 3)]], [[story(30, 3)]]), CausalObjective(8), "sop", "causal model reads no sentence pairs"),
        (([[story(10, 3), story(20, 3)]], [[story(30, 3)]]), MASKED, "nsp", "wiki-heldout-0: .* needs several documents"),
        (([[story(10, 3)]], [[document(30, 9), story(30, 1)]]), MASKED, "sop", "wiki-heldout-0: .* no document with two"),
    ],
)
def test_what_makes_no_pairs_is_refused_before_the_first_sample(tmp_path, corpora, objective, kind, words):
    data = write_prepared(tmp_path, {"wiki": corpora})
    with pytest.raises(UserError, match=words):
        open_batches(data, {"wiki": 1.0}, objective, 7, within_documents=False, pairs=kind)
