"""Plain text: documents parted by blank lines, or a file that is one."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.progress import Advance
from data_prep.settings import CorpusConfig
from data_prep.text.document import Document
from data_prep.text.lines import end_of, opened, read_at_most, read_line, seek_line
from data_prep.text.pieces import Piece
from data_prep.text.rejects import BadRecords

_UTF8_BYTES = 4
"""A character's bytes at most."""
_LOOK_BACK = 4096


def read_txt(piece: Piece, corpus: CorpusConfig, bad: BadRecords, advance: Advance) -> Iterator[Document]:
    """Yield the documents that begin in the piece."""
    path = Path(piece.path)
    longest = corpus.max_characters * _UTF8_BYTES
    divided = _paragraphs if corpus.txt_documents == "blank_line" else _whole
    for where, content in divided(path, piece, longest, advance):
        if content is None:
            bad.add_long(where)
            continue
        try:
            yield Document(content.decode(), f"{path}: {where}")
        except UnicodeDecodeError as error:
            bad.add(where, f"not UTF-8 ({error.reason} at its byte {error.start})")


def _whole(path: Path, _: Piece, longest: int, advance: Advance) -> Iterator[tuple[str, bytearray | None]]:
    """A file as one document: (where, content, None where it is longer)."""
    with opened(path, advance) as file:
        content = read_at_most(file, longest)
    yield "the file", content if len(content) <= longest else None


def _paragraphs(path: Path, piece: Piece, longest: int, advance: Advance) -> Iterator[tuple[str, bytearray | None]]:
    """The documents, separated by blank lines, that begin in the piece: (where, content, None where it is longer)."""
    stop = end_of(path, piece)
    with opened(path, advance) as file:
        place = seek_line(file, piece)
        # Of a compressed file all is one piece, and nothing of it can be looked back at.
        if place and not _behind_blank_line(file, place):
            place = _skip_paragraph(file, place, stop, longest)
        content, size, begin = bytearray(), 0, place
        while size or place < stop:
            line, length = read_line(file, longest)
            if line is None or line.strip():
                begin = begin if size else place
                size += length
                if size <= longest:
                    content += line
                else:
                    content.clear()
            elif size:
                yield f"byte {begin}", content if size <= longest else None
                content, size = bytearray(), 0
            if not length:
                return
            place += length


def _behind_blank_line(file: BinaryIO, place: int) -> bool:
    """Whether the line before the one that begins at `place` is blank, or there is none."""
    end = place - 1
    blank = True
    while blank and end > 0:
        begin = max(0, end - _LOOK_BACK)
        file.seek(begin)
        before = file.read(end - begin)
        line = before[before.rfind(b"\n") + 1 :]
        blank = not line.strip()
        end = begin if len(line) == len(before) else 0
    file.seek(place)
    return blank


def _skip_paragraph(file: BinaryIO, place: int, stop: int, longest: int) -> int:
    """Read on behind the next blank line, but not far behind `stop`; return where that is."""
    while place < stop:
        line, length = read_line(file, longest)
        place += length
        if line is not None and not line.strip():
            break
    return place
