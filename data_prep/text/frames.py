"""Where a compressed file can be read from: the frames of zstd, the blocks of BGZF (bgzip), the streams of bzip2 (pbzip2).

Frames are found by the lengths that headers give, of zstd's blocks too, or by the seek table at the end, and nothing is
decompressed. Sources: RFC 8878 (zstd); zstd's contrib/seekable_format; pzstd's frames that give the length of the next one;
the SAM specification, 4.1 (BGZF).
"""

import re
import struct
from collections.abc import Callable, Iterable
from functools import partial

ReadAt = Callable[[int, int], bytes]
"""(place, count) -> the bytes there, fewer at the end of the file."""

_ZST = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_PZSTD = struct.pack("<II", _SKIPPABLE[0], 4)
_SEEKABLE = 0x8F92EAB1
_BZ2 = re.compile(rb"BZh[1-9]1AY&SY")
"""How a stream begins, and its first block."""
_BZ2_LOOK = 4 << 20
"""Bytes in which the next stream is looked for: pbzip2's hold at most 900 kB of text."""


def cuts(read: ReadAt, size: int, compression: str, step: int, *, walks: bool) -> list[int]:
    """Return the places at which a file is cut into ranges of up to `step` bytes, or of one frame where that is longer.

    The first is 0, and the only one where the file has a single frame, or frames that cannot be found. With `walks` false
    only what is found in few reads counts, for stores at which each is a request.
    """
    if compression == ".zst":
        starts = _seek_table(read, size) or _walked(read, size, partial(_zst_end, walks=walks))
    elif compression == ".gz" and walks:
        starts = _walked(read, size, _bgzf_end)
    elif compression == ".bz2":
        return _bz2_streams(read, size, step)
    else:
        return [0]
    return _grouped(starts, size, step)


def _grouped(starts: Iterable[int], size: int, step: int) -> list[int]:
    places = [0]
    last = 0
    for start in (*starts, size):
        if start - places[-1] > step and last > places[-1]:
            places.append(last)
        last = start
    return places


def _walked(read: ReadAt, size: int, end_of: Callable[[ReadAt, int], int | None]) -> list[int]:
    """The starts of all frames, by each one's end; none where one does not end within the file."""
    starts = []
    place = 0
    while place < size:
        starts.append(place)
        end = end_of(read, place)
        if end is None or end > size:
            return []
        place = end
    return starts


def _zst_end(read: ReadAt, place: int, *, walks: bool) -> int | None:
    head = read(place, 18)
    if head.startswith(_PZSTD) and len(head) >= 16:
        # With the frame whose length it gives, so that a range begins with it.
        end = place + 12 + struct.unpack_from("<I", head, 8)[0]
        if struct.unpack_from("<I", head, 12)[0] == _ZST and _is_zst(read(end, 4)):
            return end
    if len(head) < 8:
        return None
    magic, length = struct.unpack_from("<II", head)
    if magic in _SKIPPABLE:
        return place + 8 + length
    return _zst_blocks(read, place, head) if magic == _ZST and walks else None


def _is_zst(mark: bytes) -> bool:
    """Whether a frame begins so, or the file ends."""
    return not mark or (len(mark) == 4 and ((magic := struct.unpack("<I", mark)[0]) == _ZST or magic in _SKIPPABLE))


def _zst_blocks(read: ReadAt, place: int, head: bytes) -> int | None:
    """The end of a frame, by its blocks' headers."""
    about = head[4]
    single = about >> 5 & 1
    content_size = (single, 2, 4, 8)[about >> 6]
    place += 5 + (1 - single) + (0, 1, 2, 4)[about & 3] + content_size
    last = 0
    while not last:
        block = read(place, 3)
        if len(block) < 3:
            return None
        header = int.from_bytes(block, "little")
        last, kind, length = header & 1, header >> 1 & 3, header >> 3
        place += 3 + (1 if kind == 1 else length)  # kind 1 repeats one byte
    return place + 4 * (about >> 2 & 1)


def _seek_table(read: ReadAt, size: int) -> list[int]:
    """The starts of the frames that the table at the end of a seekable file gives; none where there is no such table."""
    foot = read(max(size - 9, 0), 9)
    if len(foot) < 9 or struct.unpack_from("<I", foot, 5)[0] != _SEEKABLE:
        return []
    count, width = struct.unpack_from("<I", foot)[0], 12 if foot[4] & 0x80 else 8
    place = size - 9 - count * width - 8
    table = read(place, 8 + count * width) if place >= 0 else b""
    if len(table) != 8 + count * width or struct.unpack_from("<I", table)[0] != _SKIPPABLE[14]:
        return []
    starts = [0]
    for entry in range(count):
        starts.append(starts[-1] + struct.unpack_from("<I", table, 8 + entry * width)[0])
    return starts[:-1] if starts[-1] == place else []


def _bgzf_end(read: ReadAt, place: int) -> int | None:
    head = read(place, 18)
    # A gzip member with an extra field (flag 4), of which BC, two bytes long, is the first.
    if len(head) < 18 or head[:4] != b"\x1f\x8b\x08\x04" or head[12:16] != b"BC\x02\x00":
        return None
    return place + struct.unpack_from("<H", head, 16)[0] + 1


def _bz2_streams(read: ReadAt, size: int, step: int) -> list[int]:
    """The streams that begin next to each multiple of `step`: a mark of 10 bytes, which compressed text does not hold."""
    places = [0]
    while (place := places[-1] + step) < size and (found := _BZ2.search(read(place, _BZ2_LOOK))):
        places.append(place + found.start())
    return places
