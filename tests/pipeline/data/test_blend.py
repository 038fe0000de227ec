from fractions import Fraction

import numpy as np
import pytest

from pipeline.data.blend import BLOCK, Blend, block_counts, own_windows, spread


def test_every_epoch_takes_every_window_once_in_an_order_of_its_own():
    taken = own_windows(300, (7, "a"), np.arange(600))
    assert sorted(taken[:300]) == sorted(taken[300:]) == list(range(300))
    assert not np.array_equal(taken[:300], taken[300:])


def test_the_order_of_a_corpus_is_its_own_and_the_seeds():
    first, name, seed = (own_windows(300, key, np.arange(300)) for key in [(7, "a"), (7, "b"), (8, "a")])
    assert not np.array_equal(first, name) and not np.array_equal(first, seed)


def test_a_block_is_shared_out_by_largest_remainder():
    assert block_counts({"a": 1.0}).tolist() == [BLOCK]
    assert block_counts({"a": 3.0, "b": 1.0}).tolist() == [49152, 16384]
    # 65,536 = 3 * 21,845 + 1: the first of equals.
    assert block_counts({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}).tolist() == [21846, 21845, 21845]
    weights = dict(zip("abcde", np.random.default_rng(1).uniform(0.1, 9, 5), strict=True))
    counts = block_counts(weights)
    assert counts.sum() == BLOCK
    shares = [Fraction(weight) * BLOCK / sum(map(Fraction, weights.values())) for weight in weights.values()]
    assert all(abs(count - share) < 1 for count, share in zip(counts.tolist(), shares, strict=True))


WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}


def test_each_block_holds_each_corpus_by_its_count_and_mixes_them():
    corpora, _ = Blend(WEIGHTS, 7)(np.arange(2 * BLOCK))
    for block in corpora.reshape(2, BLOCK):
        assert np.bincount(block).tolist() == block_counts(WEIGHTS).tolist()
    # A thousand samples hold 500 of the first, give or take five standard deviations (16).
    assert abs((corpora[:1000] == 0).sum() - 500) < 80
    assert not np.array_equal(corpora[:BLOCK], corpora[BLOCK:])


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 0.9, "b": 0.1}, {"b": 0.7, "a": 0.1, "c": 0.2}])
def test_a_corpuss_own_samples_come_in_order_in_any_blend(weights):
    number = list(weights).index("a")
    corpora, own = Blend(weights, 7)(np.arange(3 * BLOCK))
    mine = own[corpora == number]
    assert mine.tolist() == list(range(len(mine)))


def test_a_blend_of_one_is_that_ones_own_order():
    corpora, own = Blend({"a": 2.5}, 7)(np.arange(5, BLOCK + 50))
    assert not corpora.any() and own.tolist() == list(range(5, BLOCK + 50))


def test_samples_may_be_asked_for_in_any_order_and_any_number_of_blocks_stays():
    blend = Blend(WEIGHTS, 7)
    samples = np.random.default_rng(1).integers(0, 20 * BLOCK, 500)
    together = blend(samples)
    alone = [Blend(WEIGHTS, 7)(samples[i : i + 1]) for i in range(0, 500, 50)]
    for place, (corpora, own) in zip(range(0, 500, 50), alone, strict=True):
        assert (corpora[0], own[0]) == (together[0][place], together[1][place])
    assert len(blend._tables) <= 4


def test_a_sample_far_into_a_run_needs_no_history():
    corpora, own = Blend(WEIGHTS, 7)(np.arange(10**15, 10**15 + 1000))
    # Half of 1e15, but for the block in hand and the 1/65,536 that counts are rounded to.
    assert abs(own[corpora == 0][0] - 5 * 10**14) < BLOCK + 5 * 10**14 / BLOCK


def test_held_out_windows_are_spread_by_weight():
    corpora, windows = spread([1000, 1000, 1000], [0.5, 0.3, 0.2], 1000)
    for first in range(1, 1001):
        counts = np.bincount(corpora[:first], minlength=3)
        assert (np.abs(counts - first * np.array([0.5, 0.3, 0.2])) <= 1).all(), first
    for number in range(3):
        mine = windows[corpora == number]
        assert mine.tolist() == list(range(len(mine)))


def test_held_out_windows_that_give_out_leave_the_rest_to_the_others():
    corpora, windows = spread([2, 0, 5], [0.5, 0.3, 0.2], 7)
    assert sorted(zip(corpora.tolist(), windows.tolist(), strict=True)) == [(0, 0), (0, 1), *((2, i) for i in range(5))]


def test_the_first_held_out_windows_are_the_same_however_many_are_asked_for():
    long = spread([30, 7, 50], [0.2, 0.5, 0.3], 60)
    for count in (1, 8, 33):
        short = spread([30, 7, 50], [0.2, 0.5, 0.3], count)
        assert all(np.array_equal(one, other[:count]) for one, other in zip(short, long, strict=True))
