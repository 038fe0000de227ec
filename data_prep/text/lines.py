"""Lines of plain and compressed files, in memory that the longest line allowed bounds."""

import bz2
import gzip
import io
import lzma
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from data_prep.files import WatchedFile
from data_prep.progress import Advance
from data_prep.text.kinds import kind_of
from data_prep.text.pieces import Piece
from data_prep.text.rejects import DamagedError

COMPRESSION_RATIO = 4
"""About how much text a compressed byte holds; only the sharing among processes and the progress shown rest on it."""

_COMPRESSED_CHUNK = 1 << 14
"""Compressed bytes taken at a time; small, for what zstandard makes of them has no limit."""
_CHUNK = 1 << 20
"""Bytes that come of them at a time, where a library can be told."""
_ZST_WINDOW = 1 << 31
"""The farthest that a frame may look back: `zstd --long=31`, as in Reddit's dumps. A frame's header says how far its own
does, 8 MiB at most at the usual levels; so much is allocated, and only what the text fills becomes memory in use."""
_BUFFER = 1 << 18


def piece_lines(path: Path, piece: Piece, longest: int, advance: Advance) -> Iterator[bytes | None]:
    """Yield the lines that begin in the piece, None for those of more than `longest` bytes; all of a compressed file."""
    stop = end_of(path, piece)
    with opened(path, advance) as file:
        place = seek_line(file, piece)
        while place < stop:
            line, length = read_line(file, longest)
            if not length:
                return
            yield line
            place += length


def end_of(path: Path, piece: Piece) -> int:
    """Return the place in the text from which on no line is the piece's: a compressed file is one piece."""
    return piece.stop if kind_of(path).compression is None else sys.maxsize


def opened(path: Path, advance: Advance) -> BinaryIO:
    """Return the file's content, uncompressed; `advance` is told about how many bytes of text were read."""
    compression = kind_of(path).compression
    if compression is None:
        return io.BufferedReader(WatchedFile(path, advance), _BUFFER)
    file = io.BufferedReader(WatchedFile(path, lambda count: advance(count * COMPRESSION_RATIO)))
    if compression == ".gz":
        unzipped = gzip.GzipFile(fileobj=file)
        unzipped.myfileobj = file  # closed with it, as one that it opens itself
        return unzipped
    return io.BufferedReader(_Chunks(_decompressed(file, _STREAMS[compression])), _BUFFER)


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


def read_at_most(file: BinaryIO, most: int) -> bytearray:
    """Return the file's content, or where it is longer than `most` bytes somewhat more than these."""
    content = bytearray()
    # In steps: a read of so many bytes would first make room for them.
    while len(content) <= most and (chunk := file.read(_BUFFER)):
        content += chunk
    return content


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


class _Stream(Protocol):
    """One of the compressed streams that a file is made of, as bz2 and lzma have it."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _ZstFrame:
    """zstandard's, which cannot be told how much it may return."""

    needs_input = True

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=_ZST_WINDOW).decompressobj()

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return self._frame.decompress(data)
        except zstandard.ZstdError as error:
            # The library has one error for a damaged frame and for a window that there is no memory for.
            if "not enough memory" in str(error):
                raise MemoryError(str(error)) from None
            raise


_STREAMS: dict[str, Callable[[], _Stream]] = {
    ".zst": _ZstFrame,
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}


def _decompressed(file: BinaryIO, begun: Callable[[], _Stream]) -> Iterator[bytes]:
    # The libraries' own files take a stream that breaks off (zstandard), or garbage behind one (bz2, lzma), for the end of
    # the file: only the streams tell.
    stream = begun()
    with file:
        while chunk := file.read(_COMPRESSED_CHUNK):
            while chunk:
                if stream.eof:
                    stream = begun()
                yield stream.decompress(chunk, _CHUNK)
                while not stream.eof and not stream.needs_input:
                    yield stream.decompress(b"", _CHUNK)
                chunk = stream.unused_data
    if not stream.eof:
        raise DamagedError("the compressed file breaks off")
