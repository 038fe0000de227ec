"""Lines of plain and compressed files, in memory that the longest line allowed bounds."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from data_prep.text.pieces import Piece
from data_prep.text.rejects import DamagedError

COMPRESSED = (".jsonl.gz", ".jsonl.zst")

_ZST_CHUNK = 1 << 14
"""Compressed bytes taken at a time; small, for what becomes of them has no limit."""
_ZST_WINDOW = 1 << 31
"""The farthest that a frame may look back: `zstd --long=31`, as in Reddit's dumps. A frame's header says how far its own
does, 8 MiB at most at the usual levels; so much is allocated, and only what the text fills becomes memory in use."""
_BUFFER = 1 << 18


def piece_lines(path: Path, piece: Piece, longest: int) -> Iterator[bytes | None]:
    """Yield the lines that begin in the piece, None for those of more than `longest` bytes; all of a compressed file."""
    compressed = path.name.endswith(COMPRESSED)
    with opened(path) as file:
        place = 0 if compressed else seek_line(file, piece)
        while compressed or place < piece.stop:
            line, length = read_line(file, longest)
            if not length:
                return
            yield line
            place += length


def opened(path: Path) -> BinaryIO:
    """Return the file's content, uncompressed."""
    if path.name.endswith(".zst"):
        return io.BufferedReader(_Chunks(_zst_chunks(path)), _BUFFER)
    if path.name.endswith(".gz"):
        return gzip.open(path)
    return open(path, "rb", buffering=_BUFFER)


def read_line(file: BinaryIO, longest: int) -> tuple[bytes | None, int]:
    """Return (the next line, None where it has more than `longest` bytes, its length)."""
    line = file.readline(longest)
    length = len(line)
    if length < longest or line.endswith(b"\n"):
        return line, length
    while rest := file.readline(_BUFFER):
        length += len(rest)
        if rest.endswith(b"\n"):
            break
    return (line if length == longest else None), length


def seek_line(file: BinaryIO, piece: Piece) -> int:
    """Go to the first line that begins in the piece, or behind it; return where that is."""
    if not piece.start:
        return 0
    file.seek(piece.start - 1)
    place = piece.start - 1
    while place < piece.stop and (rest := file.readline(_BUFFER)):
        place += len(rest)
        if rest.endswith(b"\n"):
            break
    return place


class _Chunks(io.RawIOBase):
    """The bytes of an iterator as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:
        """Fill what can be filled; return how many bytes."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def _zst_chunks(path: Path) -> Iterator[bytes]:
    # zstandard's stream reader takes a frame that breaks off for the end of the file; only the frame object tells.
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZST_WINDOW)
    frame = decompressor.decompressobj()
    with open(path, "rb") as file:
        while chunk := file.read(_ZST_CHUNK):
            while chunk:
                if frame.eof:
                    frame = decompressor.decompressobj()
                yield _decompressed(frame, chunk)
                chunk = frame.unused_data
    if not frame.eof:
        raise DamagedError("the compressed file breaks off")


def _decompressed(frame: "zstandard.ZstdDecompressionObj", chunk: bytes) -> bytes:
    try:
        return frame.decompress(chunk)
    except zstandard.ZstdError as error:
        # The library has one error for a damaged frame and for a window that there is no memory for.
        if "not enough memory" in str(error):
            raise MemoryError(str(error)) from None
        raise
