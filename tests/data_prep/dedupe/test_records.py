import numpy as np
import pytest

from data_prep.dedupe.records import COPY, Copies, holds
from data_prep.storage.arrays import write_array
from tests.data_prep.dedupe.planted import plant
from tests.data_prep.dedupe.prepared import Corpus, Prepared
from tests.data_prep.preparing import few_descriptors

_FILES = 300


@pytest.mark.slow
def test_more_parts_than_files_may_be_open_are_deduplicated(tmp_path):
    texts = plant(_FILES).texts
    corpora = [Corpus("a", "near", texts), Corpus("b", "exact", texts[:10])]
    whole = Prepared(tmp_path / "whole", corpora, per_part=1000, bands=2)
    decisions = whole.decisions(whole.deduplicate())
    parted = Prepared(tmp_path / "parted", corpora, per_part=1, bands=2)
    with few_descriptors():
        assert parted.decisions(parted.deduplicate()) == decisions


def test_copies_may_lie_in_more_files_than_may_be_open(tmp_path):
    paths = [tmp_path / f"{number}.npy" for number in range(_FILES)]
    for number, path in enumerate(paths):
        write_array(path, np.array([(number, 0, 1), (number + 1000, 0, 1)], COPY))
    copies = Copies(paths)
    with few_descriptors():
        found = copies.between(5, 1005)["document"]
        have = copies.have(np.array([4, 999, 1000]))
    assert found.tolist() == [*range(5, _FILES), *range(1000, 1005)]
    assert have.tolist() == [True, False, True]


@pytest.mark.parametrize("size", [0, 1, 2, 100])
def test_a_column_holds_what_numpy_finds_in_it(size):
    draw = np.random.default_rng(size)
    column = np.sort(draw.integers(0, 150, size))
    values = np.arange(-1, 152)
    assert np.array_equal(holds(column, values), np.isin(values, column))
    assert len(holds(column, values[:0])) == 0
