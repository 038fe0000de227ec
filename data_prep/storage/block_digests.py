"""Digests of a file's blocks, in a file beside it: any part of it is compared without reading the rest."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.common.errors import UserError

BLOCK = 1 << 16
"""Bytes of a block: what Linux reads of a mapped file around one access anyway; 80 microseconds to hash."""
_DIGEST = 16
Digests = bytes | np.ndarray
"""Of a file's blocks, one behind the other: bytes, or an array of uint8."""
_READ = 1 << 20
"""Bytes that are read at a time: a multiple of BLOCK."""


def write_block_digests(data: Path, digests: Path) -> None:
    """Write BLAKE2b-128 of each block of `data`, one behind the other: a 4096th of its size."""
    with open(data, "rb") as file, open(digests, "wb") as out:
        for chunk in chunks(file):
            out.write(b"".join(map(_digest, _split(chunk))))


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield what is left of a file, a mebibyte at a time."""
    while chunk := file.read(_READ):
        yield chunk


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Have a file that cannot be read refused by its name."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); put the file back, or prepare the text again") from None


class Blocks:
    """Which blocks of a file were compared with their digests, each once by this process."""

    def __init__(self, data: Path, digests: Path, size: int) -> None:
        """`data` has `size` bytes; neither file is opened yet."""
        self.data = data
        self.digests = digests
        self.count = -(-size // BLOCK)
        self.digests_size = self.count * _DIGEST
        """Bytes of the digests."""
        self._left = bytearray(b"\1") * self.count

    def read_digests(self) -> bytes:
        """Return the digests; raises UserError where they are not as many as there are blocks."""
        with readable(self.digests):
            digests = self.digests.read_bytes()
        self._check_count(len(digests))
        return digests

    def left(self, begin: int, end: int) -> list[int]:
        """Return which of the blocks of bytes [begin, end) were not compared before."""
        return [number for number in range(begin // BLOCK, -(-end // BLOCK)) if self._left[number]]

    def compare(self, numbers: Iterable[int], digests: Digests) -> None:
        """Compare blocks by their numbers with what `read_digests` returns.

        Raises UserError, naming the file and the bytes, for the first block that is another than was prepared.
        """
        self._check_count(len(digests))
        # Read, not mapped: of a file that was cut off since, a map would end the process.
        with readable(self.data), open(self.data, "rb") as file:
            for number in numbers:
                file.seek(number * BLOCK)
                self._compare(number, file.read(BLOCK), digests)

    def compare_chunk(self, begin: int, chunk: bytes, digests: Digests) -> None:
        """Compare bytes of the file from `begin` on, a multiple of BLOCK; raises UserError as `compare` does."""
        for number, block in enumerate(_split(chunk), begin // BLOCK):
            self._compare(number, block, digests)

    def _compare(self, number: int, block: bytes | memoryview, digests: Digests) -> None:
        if _digest(block) != bytes(digests[number * _DIGEST : (number + 1) * _DIGEST]):
            begin = number * BLOCK
            raise UserError(
                f"{self.data}: bytes {begin:,} to {begin + len(block):,} are not those that were prepared; put the file "
                "back, or prepare the text again"
            )
        self._left[number] = 0

    def _check_count(self, size: int) -> None:
        if size != self.digests_size:
            raise UserError(
                f"{self.digests}: {size} bytes where {self.digests_size} are due; put the file back, or prepare the text again"
            )


def _split(chunk: bytes) -> Iterator[memoryview]:
    view = memoryview(chunk)
    return (view[begin : begin + BLOCK] for begin in range(0, len(chunk), BLOCK))


def _digest(block: bytes | memoryview) -> bytes:
    return hashlib.blake2b(block, digest_size=_DIGEST).digest()
