"""Arrays on disk, .npy: written whole or block by block, read whole or memory-mapped."""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np


def write_blocks(path: Path, dtype: np.dtype, row: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Write an array of rows of shape `row` from consecutive blocks of them: only one of these need be in memory."""
    count = 0
    with open(path, "wb") as file:  # not a memory map: where the disk is full, writing to one ends the process
        _write_header(file, dtype, (count, *row))
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).data)
            count += len(block)
        file.seek(0)
        _write_header(file, dtype, (count, *row))  # as long as before: numpy pads for the first axis to grow


def _write_header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a whole array; np.save would add a suffix to the name."""
    write_blocks(path, array.dtype, array.shape[1:], [array])


def mapped(path: Path) -> np.ndarray:
    """Return an array on disk, memory-mapped: it holds a file descriptor for as long as it or a view of it lives."""
    return np.load(path, mmap_mode="r")
