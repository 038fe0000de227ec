"""Plain text: documents separated by blank lines, or a file that is one."""

from collections.abc import Iterator
from typing import BinaryIO

from data_prep.settings import CorpusConfig
from data_prep.text.document import Document
from data_prep.text.input_ranges import InputRange
from data_prep.text.lines import RangeText, opened, read_at_most, read_line
from data_prep.text.rejects import BadRecords
from pipeline.common.progress import Advance

_UTF8_BYTES = 4
"""A character's bytes at most."""
_LOOK_BACK = 4096


def read_txt(input_range: InputRange, corpus: CorpusConfig, bad: BadRecords, advance: Advance) -> Iterator[Document]:
    """Yield the documents that begin in the range."""
    longest = corpus.max_characters * _UTF8_BYTES
    divided = _paragraphs if corpus.txt_documents == "blank_line" else _whole
    for where, content in divided(input_range, longest, advance):
        if content is None:
            bad.add_long(where)
            continue
        try:
            yield Document(content.decode(), f"{input_range.path}: {where}")
        except UnicodeDecodeError as error:
            bad.add(where, f"not UTF-8 ({error.reason} at its byte {error.start})")


def _whole(input_range: InputRange, longest: int, advance: Advance) -> Iterator[tuple[str, bytearray | None]]:
    """A file as one document: (where, content, None where it is longer)."""
    with opened(input_range.path, advance) as file:
        content = read_at_most(file, longest)
    yield "the file", content if len(content) <= longest else None


def _paragraphs(input_range: InputRange, longest: int, advance: Advance) -> Iterator[tuple[str, bytearray | None]]:
    """The documents, separated by blank lines, that begin in the range: (where, content, None where it is longer).

    Of frames, what begins behind the first blank line that is the range's: whether the line before it is blank is not known.
    """
    behind = f" of the text behind byte {input_range.start}" if input_range.start else ""
    with RangeText(input_range, advance) as text:
        place = text.first_line()
        behind_blank = not place or (not text.framed and _behind_blank_line(text.file, place))
        if not behind_blank:
            place, behind_blank = _skip_paragraph(text, place, longest)
        content, size, begin = bytearray(), 0, place
        mine = behind_blank if text.framed else place < text.stop
        while size or mine:
            line, length = read_line(text.file, longest)
            blank = line is not None and not line.strip()
            if not blank:
                begin = begin if size else place
                size += length
                if line is not None and size <= longest:
                    content += line
                else:
                    content.clear()
            elif size:
                yield f"byte {begin}{behind if text.framed else ''}", content if size <= longest else None
                content, size = bytearray(), 0
            if not length:
                return
            mine = not (blank and place >= text.stop) if text.framed else place + length < text.stop
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


def _skip_paragraph(text: RangeText, place: int, longest: int) -> tuple[int, bool]:
    """Read on behind the next blank line, but not far behind the range; return where that is, and whether there was one."""
    blank = False
    while place < text.stop and not blank:
        line, length = read_line(text.file, longest)
        place += length
        blank = line is not None and not line.strip()
    return place, blank
