"""Shingles and their similarity in plain Python, by regular expressions."""

import regex

_WORDS = regex.compile(
    r"[[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]&&[\p{L}\p{M}\p{N}]]"
    r"|[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]+",
    regex.V1,
)


def shingles(text: str, ngram: int = 5) -> list[tuple[str, ...]]:
    """The runs of `ngram` words, in order; of a shorter text the one of all its words."""
    words = _WORDS.findall(text.lower())
    if len(words) < ngram:
        return [tuple(words)] if words else []
    return [tuple(words[place : place + ngram]) for place in range(len(words) - ngram + 1)]


def jaccard(left: set, right: set) -> float:
    return len(left & right) / len(left | right)
