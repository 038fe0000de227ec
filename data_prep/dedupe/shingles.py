"""Shingles: the runs of `ngram` neighbouring words of a text, as 32-bit hashes.

A word is a run of letters, digits and marks, in lower case; in scripts that put no spaces between words each character
is one. A text of fewer than `ngram` words has one shingle, of all of them; a text without words has none.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

from data_prep.dedupe.kernels import ALONE

_SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark and zero
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # CJK ideographs and their extensions
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),  # Myanmar extensions
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),  # half-width Katakana
    (0x1B000, 0x1B16F),  # Kana extensions
    (0x20000, 0x3FFFF),
)
_CODES = 0x40000
"""No letter lies above: the planes that follow are unassigned, tags, or private."""


def code_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (the code points of texts, one after the other, uint32; where each text ends in them, int64)."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    return codes, np.cumsum([len(text) for text in texts], dtype=np.int64)


@cache
def word_table() -> np.ndarray:
    """Return, uint32 [codes + 1], each code point's lower case, ALONE set in some; 0 for what separates words.

    The last entry, 0, stands for every code point above.
    """
    table = np.zeros(_CODES + 1, dtype=np.uint32)
    for code in range(_CODES):
        character = chr(code)
        if unicodedata.category(character)[0] in "LNM":
            table[code] = ord(character.lower()[0])  # one letter's lower case, that of U+0130, is two code points
    for first, last in _SPACELESS:
        block = table[first : last + 1]
        block[block > 0] |= ALONE
    return table
