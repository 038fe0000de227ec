import numpy as np
import pytest

from pipeline.common import keyed


@pytest.mark.parametrize("draw", [keyed.words, keyed.uniform, keyed.normal])
def test_any_run_of_a_stream_is_the_same_wherever_it_is_cut(draw):
    whole = draw(("a", 1), 0, 1000)
    for start, stop in [(0, 1), (3, 4), (4, 8), (5, 999), (997, 1000)]:
        assert np.array_equal(draw(("a", 1), start, stop - start), whole[start:stop])


def test_normal_draws_are_the_same_across_the_blocks_that_they_are_made_in():
    whole = keyed.normal(("a", 1), 0, 200_000)
    for start, stop in [(65_530, 65_545), (1, 131_080), (70_003, 200_000)]:
        assert np.array_equal(keyed.normal(("a", 1), start, stop - start), whole[start:stop])


def test_keys_name_different_streams():
    assert not np.array_equal(keyed.words(("a", 1), 0, 8), keyed.words(("a", 2), 0, 8))
    assert not np.array_equal(keyed.words(("a", 1), 0, 8), keyed.words(("b", 1), 0, 8))


def test_draws_follow_their_distributions():
    # Deviations of the mean of 1e5 draws are 1e-3 (uniform) and 3e-3 (normal); five of them are allowed.
    uniform, normal = keyed.uniform(("u",), 0, 100_000), keyed.normal(("n",), 0, 100_000)
    assert abs(uniform.mean() - 0.5) < 5e-3
    assert uniform.min() >= 0 and uniform.max() < 1
    assert abs(normal.mean()) < 1.6e-2
    assert abs(normal.std() - 1) < 1.2e-2
    counts = np.bincount(keyed.below(("b",), 0, 90_000, 9), minlength=9)
    assert counts.min() > 9_500 and counts.max() < 10_500 and len(counts) == 9


@pytest.mark.parametrize("width", [1, 3, 8, 21, 1030])
def test_a_block_is_the_rows_and_columns_of_the_whole_draw(width):
    rows = 13
    whole = keyed.normal(("a", 1), 0, rows * width).reshape(rows, width)
    edges = sorted({0, 1, 2, 5, width // 2, width - 1, width} & set(range(width + 1)))
    for start, stop in [(0, rows), (3, 4), (5, 12)]:
        for first in edges:
            for behind in [edge for edge in edges if edge > first]:
                block = keyed.normal_block(("a", 1), (start, stop), (first, behind), width)
                assert block.dtype == np.float32 and np.array_equal(block, whole[start:stop, first:behind])
