import numpy as np
import pytest

from data_prep.shards import idx_path
from pipeline.data.examples import Windows
from tests.shards import MemoryShard, write_shard


def test_windows_overlap_by_the_token_that_is_label_and_input(tmp_path):
    shard = write_shard(tmp_path / "x", [[range(n % 100)] for n in range(70)])
    windows = Windows([shard], 33, 32)
    assert len(windows) == (shard.size - 1) // 32
    read = windows.read(np.arange(len(windows)))
    for i, tokens in enumerate(read):
        assert tokens.tolist() == shard.tokens[32 * i : 32 * i + 33].tolist()
    assert read[0, -1] == read[1, 0] and read.dtype == np.int64


def test_windows_go_on_from_shard_to_shard_and_never_across(tmp_path):
    tokens = np.arange(100)
    # 3 + 0 (too short) + 1 + 2 windows of 10.
    parts = [tokens[:35], tokens[35:44], tokens[44:54], tokens[54:79]]
    windows = Windows([MemoryShard(part) for part in parts], 10, 10)
    assert windows.read(np.arange(len(windows)))[:, 0].tolist() == [0, 10, 20, 44, 54, 64]
    got = windows.read(np.array([3, 0, 5]))
    assert got.tolist() == [list(range(44, 54)), list(range(10)), list(range(64, 74))]
    with pytest.raises(IndexError):
        windows.read(np.array([6]))


def test_text_that_is_too_short_makes_no_window():
    assert len(Windows([MemoryShard(np.arange(9))], 10, 10)) == 0
    assert len(Windows([], 10, 10)) == 0


class Simulated:
    """A shard of which only the size is known."""

    size = 10**9 + 1

    def read(self, begin, end):
        raise AssertionError("was opened")


def test_nothing_but_sizes_is_asked_for_until_a_window_is_read():
    windows = Windows([Simulated()] * 1000, 1001, 1000)
    assert len(windows) == 10**9
    with pytest.raises(AssertionError, match="was opened"):
        windows.read(np.array([10**9 - 1]))


@pytest.mark.parametrize("length", [2, 7, 20])
def test_each_token_knows_its_document(tmp_path, length):
    draw = np.random.default_rng(1)
    documents = [[[0] * draw.integers(0, 6) for _ in range(draw.integers(0, 4))] for _ in range(60)]
    shard = write_shard(tmp_path / "x", documents)
    owner = np.concatenate([np.full(sum(map(len, document)), number) for number, document in enumerate(documents)])
    windows = Windows([shard], length, 3)
    for i, seen in enumerate(windows.documents(np.arange(len(windows)))):
        # Counted from 0 in the window, documents without a token left out.
        expected = np.unique(owner[3 * i : 3 * i + length], return_inverse=True)[1]
        assert seen.tolist() == expected.tolist(), i


def test_the_index_is_not_looked_at_for_tokens_alone(tmp_path):
    shard = write_shard(tmp_path / "x", [[range(40)]])
    idx_path(tmp_path / "x").unlink()
    assert Windows([shard], 20, 20).read(np.array([1]))[0].tolist() == list(range(20, 40))
