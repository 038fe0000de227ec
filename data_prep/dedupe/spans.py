"""Spans: the lines or paragraphs of a text, as 128-bit hashes that are equal up to case and white space.

A line ends with a line feed; a paragraph is a run of lines between blank ones, which hold white space alone. Words are
those of shingles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from data_prep.dedupe.kernels import ALONE, WORD, find_spans
from data_prep.dedupe.shingles import code_points, word_table

_LINE_FEED = 10


@dataclass(frozen=True, slots=True)
class Spans:
    """The spans of some texts, one after the other."""

    high: np.ndarray
    """The upper half of each span's hash, uint64."""
    low: np.ndarray
    lines: np.ndarray
    """Each span's first line in its text and the line behind its last one, int64 [spans, 2]."""
    counts: np.ndarray
    """How many spans each text has, int64."""


class SpanFinder:
    """Finds the spans of at least `min_words` words."""

    def __init__(self, unit: Literal["line", "paragraph"], min_words: int) -> None:
        self._paragraphs = unit == "paragraph"
        self._min_words = min_words

    def __call__(self, texts: Sequence[str]) -> Spans:
        """Return the spans of texts; takes about nine bytes a character of memory, and 32 a line."""
        codes, ends = code_points(texts)
        most = int(np.count_nonzero(codes == _LINE_FEED)) + len(texts)
        high, low = np.empty(most, np.uint64), np.empty(most, np.uint64)
        lines, counts = np.empty((most, 2), np.int64), np.empty(len(texts), np.int64)
        found = find_spans(codes, ends, span_table(), self._paragraphs, self._min_words, high, low, lines, counts)
        return Spans(high[:found], low[:found], lines[:found], counts)


@cache
def span_table() -> np.ndarray:
    """Return, uint32 [codes], each code point without its case, 0 for white space; ALONE or WORD set as words are made of.

    A code point above is itself.
    """
    words = word_table()[:-1]
    table = np.empty(len(words), dtype=np.uint32)
    for code in range(len(table)):
        character = chr(code)
        folded = character.casefold()
        # What becomes several letters, as U+00DF, counts as it is.
        table[code] = 0 if character.isspace() else ord(folded) if len(folded) == 1 else code
    table[words > 0] |= np.uint32(WORD)
    table[words >= ALONE] |= np.uint32(ALONE)
    return table


def without_lines(text: str, removed: np.ndarray) -> str:
    """Return a text without some of its lines, given by number, ascending.

    Where lines were removed, the blank ones before them are not joined by those behind: what one blank line separated, or
    none, still is.
    """
    lines = text.split("\n")
    end = "\n" if not lines[-1] and len(lines) > 1 else ""
    if end:
        lines.pop()
    gone = np.zeros(len(lines), dtype=bool)
    gone[removed] = True
    kept: list[str] = []
    behind = False  # a removed line, with no more than blank ones since
    for line, is_gone in zip(lines, gone.tolist(), strict=True):
        if is_gone:
            behind = True
            continue
        is_blank = not line.strip()
        if behind and is_blank and (not kept or not kept[-1].strip()):
            continue
        behind = behind and is_blank
        kept.append(line)
    # Blank lines before what was removed from the end.
    while behind and kept and not kept[-1].strip():
        kept.pop()
    return "\n".join(kept) + end if kept else ""
