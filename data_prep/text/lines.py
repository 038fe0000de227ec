"""Lines of plain and compressed files, in memory that the longest line allowed bounds."""

import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

import zstandard

from data_prep.storage.stores import raw_file, source_of
from data_prep.text.input_ranges import InputRange
from data_prep.text.kinds import kind_of
from data_prep.text.rejects import DamagedError
from pipeline.common.progress import Advance

COMPRESSION_RATIO = 4
"""About how much text a compressed byte holds; only the sharing among processes and the progress shown rest on it."""

_COMPRESSED_CHUNK = 1 << 14
"""Compressed bytes taken at a time; small, for what zstandard makes of them has no limit."""
_CHUNK = 1 << 20
"""Bytes that come of them at a time, where a library takes a limit."""
_ZST_WINDOW = 1 << 31
"""The farthest that a frame may look back: `zstd --long=31`, as in Reddit's dumps. A frame's header says how far its own
does, 8 MiB at most at the usual levels; so much is allocated, and only what the text fills becomes memory in use."""
_BUFFER = 1 << 18


class RangeText:
    """The text in which a range lies, decompressed: of the whole file, or from the frame on at which the range begins.

    Of plain text what begins in the range is the range's. Of frames, what begins behind the first line end in it, up to what
    begins behind the first line end in the next range: nothing before the range need be decompressed.
    """

    def __init__(self, input_range: InputRange, advance: Advance, *, ahead: bool = True) -> None:
        source = source_of(input_range.path)
        compression = kind_of(source).compression
        self._input_range = input_range
        self.framed = compression is not None
        """Whether what stands before the range cannot be read."""
        if compression is None:
            self.file: BinaryIO = io.BufferedReader(raw_file(source, advance, input_range.stop * ahead), _BUFFER)
        else:
            raw = raw_file(source, _bounded(advance, input_range.size), input_range.stop * ahead)
            raw.seek(input_range.start)
            self._frames = _Frames(io.BufferedReader(raw), compression, input_range)
            self.file = io.BufferedReader(self._frames, _BUFFER)

    @property
    def stop(self) -> int:
        """The place in the text from which on no line is the range's, as far as is known."""
        return self._frames.stop if self.framed else self._input_range.stop

    def first_line(self) -> int:
        """Go to the first line that begins in the range, or behind it; return where that is."""
        if not self._input_range.start:
            return 0
        place = 0
        if not self.framed:
            place = self._input_range.start - 1
            self.file.seek(place)
        while place < self.stop and (rest := self.file.readline(_BUFFER)):
            place += len(rest)
            if rest.endswith(b"\n"):
                break
        return place

    def __enter__(self) -> "RangeText":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def range_lines(input_range: InputRange, longest: int, advance: Advance) -> Iterator[bytes | None]:
    """Yield the lines that are the range's, None for those of more than `longest` bytes."""
    with RangeText(input_range, advance) as text:
        place = text.first_line()
        while place < text.stop:
            line, length = read_line(text.file, longest)
            if not length:
                return
            yield line
            place += length


def opened(path: str, advance: Advance, *, ahead: bool = True) -> BinaryIO:
    """Return a whole file's content, uncompressed; `advance` is called with about how many bytes of text were read.

    With `ahead` false no more is asked of a store than is read.
    """
    return RangeText(InputRange(path=path, start=0, stop=sys.maxsize, size=sys.maxsize), advance, ahead=ahead).file


def _bounded(advance: Advance, most: int) -> Advance:
    """Count compressed bytes as text, up to the range's size: what is read behind it is another's."""
    counted = 0

    def count_text(count: int) -> None:
        nonlocal counted
        text = min(count * COMPRESSION_RATIO, most - counted)
        counted += text
        advance(text)

    return count_text


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
    # In steps: a read of so many bytes would first allocate memory for them.
    while len(content) <= most and (chunk := file.read(_BUFFER)):
        content += chunk
    return content


_PADDED = (".gz", ".xz")
"""What may have zeros behind its streams (gzip's manual, "Tapes"; the .xz file format, 2.2)."""


class _Frames(io.RawIOBase):
    """The text of the frames from a range's first one on to the end of the file."""

    def __init__(self, file: BinaryIO, compression: str, input_range: InputRange) -> None:
        self.stop = sys.maxsize
        """Behind the first byte of the frame at which the next range begins, once that is come to."""
        self._text = self._decompressed(file, _STREAMS[compression], input_range, padded=compression in _PADDED)
        self._file = file
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._text, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def _decompressed(
        self, file: BinaryIO, new_stream: Callable[[], "_Stream"], input_range: InputRange, *, padded: bool
    ) -> Iterator[bytes]:
        # The libraries' own files take a stream that breaks off (zstandard), or garbage behind one (bz2, lzma), for the end of
        # the file: only the streams show it.
        stream = new_stream()
        place, length = input_range.start, 0
        while chunk := file.read(_COMPRESSED_CHUNK):
            place += len(chunk)
            while chunk:
                if stream.eof:
                    if padded and not (chunk := chunk.lstrip(b"\0")):
                        break
                    if self.stop == sys.maxsize and (begins := place - len(chunk)) >= input_range.stop:
                        if begins > input_range.stop:
                            raise DamagedError(
                                f"no frame begins at byte {input_range.stop}, where one began when the plan was made"
                            )
                        self.stop = length + 1
                    stream = new_stream()
                text = stream.decompress(chunk, _CHUNK)
                length += len(text)
                yield text
                while not stream.eof and not stream.needs_input:
                    text = stream.decompress(b"", _CHUNK)
                    length += len(text)
                    yield text
                chunk = stream.unused_data
        if not stream.eof:
            raise DamagedError("the compressed file breaks off")


class _Stream(Protocol):
    """One of the compressed streams that a file is made of, as bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Unlimited:
    """A stream of zlib's or zstandard's; it returns all that some bytes hold, zlib's a thousand times as many at most."""

    needs_input = True

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return self._stream.decompress(data)
        except zstandard.ZstdError as error:
            # The library has one error for a damaged frame and for a window that there is no memory for.
            if "not enough memory" in str(error):
                raise MemoryError(str(error)) from None
            raise


_STREAMS: dict[str, Callable[[], _Stream]] = {
    ".gz": lambda: _Unlimited(zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)),
    ".zst": lambda: _Unlimited(zstandard.ZstdDecompressor(max_window_size=_ZST_WINDOW).decompressobj()),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}
