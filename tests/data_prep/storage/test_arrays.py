from pathlib import Path

import numpy as np
import pytest

from data_prep.storage.arrays import mapped, write_array, write_blocks


@pytest.mark.parametrize(
    "array",
    [np.arange(7), np.zeros((3, 4), np.uint32), np.empty(0, bool), np.ones(5, [("a", "<i8"), ("b", "<f4")])],
    ids=["integers", "rows", "empty", "records"],
)
def test_the_bytes_are_numpys_whole_or_block_by_block(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "theirs.npy", array)
    write_array(tmp_path / "whole", array)
    write_blocks(tmp_path / "blocks", array.dtype, array.shape[1:], (array[start : start + 2] for start in range(0, 8, 2)))
    theirs = (tmp_path / "theirs.npy").read_bytes()
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "blocks").read_bytes() == theirs
    assert np.array_equal(mapped(tmp_path / "whole"), array)
