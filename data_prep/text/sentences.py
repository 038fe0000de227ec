"""Sentences of a text, for sequences that end where sentences do (BERT's pairs)."""

import re

from sentencex import segment

_PARAGRAPH = re.compile(r"\n\s*\n")
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")
"""White space of more than one byte: behind an initial (J. K.) the library counts it as one, and panics."""


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Return the sentences of `text` in order, each without outer white space; none spans a blank line.

    Nothing but white space between sentences is lost. By the rules of Wikimedia's sentencex, which takes English's
    for a language (ISO 639) that it has none for.
    """
    sentences = []
    for paragraph in _PARAGRAPH.split(text):
        begin = 0
        for found in segment(language, _WIDE_SPACE.sub(" ", paragraph)):
            end = begin + len(found)
            sentences.append(paragraph[begin:end].strip())
            begin = end
    return [sentence for sentence in sentences if sentence]
