"""Step `gopher_quality`: documents that are no running text."""

import functools
from collections import Counter

from data_prep.steps.base import Share, Step
from data_prep.text.document import Document
from data_prep.words.english import LONGEST_REMEMBERED, words
from data_prep.words.punctuation import PUNCTUATION
from pipeline.common.config import NonNegative, PositiveInt

_BULLETS = ("•", "-")
_ELLIPSES = ("...", "…")


class GopherQuality(Step, name="gopher_quality"):
    """Drop a document with too few or too many words, or words, lines and symbols as running text does not have them.

    Rae et al. 2021, "Scaling Language Models" (arXiv:2112.11446), appendix A.1.1, whose thresholds are the defaults, in
    datatrove's reading (GopherQualityFilter), with its names. Punctuation marks are words too where shares of words are taken,
    but not where words are counted or measured. A rule that is null is not applied.
    """

    min_doc_words: PositiveInt | None = 50
    """Fewest words of a document."""
    max_doc_words: PositiveInt | None = 100_000
    """Most words of a document."""
    min_avg_word_length: NonNegative | None = 3
    """Least mean length of words, in characters."""
    max_avg_word_length: NonNegative | None = 10
    """Greatest mean length of words, in characters."""
    max_symbol_word_ratio: NonNegative | None = 0.1
    """Most number signs, and most ellipses, per word."""
    max_bullet_lines_ratio: Share | None = 0.9
    """Most lines that begin with • or -."""
    max_ellipsis_lines_ratio: Share | None = 0.3
    """Most lines that end with an ellipsis."""
    min_alpha_words_ratio: Share | None = 0.8
    """Fewest words with a letter (datatrove's max_non_alpha_words_ratio)."""
    min_stop_words: PositiveInt | None = 2
    """Fewest different ones of `stop_words`."""
    stop_words: list[str] = ["the", "be", "to", "of", "and", "that", "have", "with"]
    """The words of which `min_stop_words` are asked."""

    def __call__(self, document: Document) -> str | None:
        """Return which rule drops the document."""
        text = document.text
        counts = Counter(words(text))
        number = characters = everything = lettered = 0
        for word, count in counts.items():
            counted, letters = _kind(word)
            everything += count
            number += counted * count
            characters += counted * count * len(word)
            lettered += letters * count
        if self.min_doc_words is not None and number < self.min_doc_words:
            return f"{self.name}: few words"
        if self.max_doc_words is not None and number > self.max_doc_words:
            return f"{self.name}: many words"
        if number:
            mean = characters / number
            if self.min_avg_word_length is not None and mean < self.min_avg_word_length:
                return f"{self.name}: short words"
            if self.max_avg_word_length is not None and mean > self.max_avg_word_length:
                return f"{self.name}: long words"
        if everything:
            if self.max_symbol_word_ratio is not None:
                if text.count("#") / everything > self.max_symbol_word_ratio:
                    return f"{self.name}: number signs"
                if (text.count("...") + text.count("…")) / everything > self.max_symbol_word_ratio:
                    return f"{self.name}: ellipses"
            lines = text.splitlines()
            if self.max_bullet_lines_ratio is not None:
                bullets = sum(line.lstrip().startswith(_BULLETS) for line in lines)
                if bullets / len(lines) > self.max_bullet_lines_ratio:
                    return f"{self.name}: lines with bullets"
            if self.max_ellipsis_lines_ratio is not None:
                open_ended = sum(line.rstrip().endswith(_ELLIPSES) for line in lines)
                if open_ended / len(lines) > self.max_ellipsis_lines_ratio:
                    return f"{self.name}: lines that end with an ellipsis"
            if self.min_alpha_words_ratio is not None and lettered / everything < self.min_alpha_words_ratio:
                return f"{self.name}: words without a letter"
        if self.min_stop_words is not None and len(counts.keys() & set(self.stop_words)) < self.min_stop_words:
            return f"{self.name}: few stop words"
        return None


def _kind(word: str) -> tuple[bool, bool]:
    # A long word is seldom seen twice, and would only fill the cache.
    return _remembered_kind(word) if len(word) <= LONGEST_REMEMBERED else _remembered_kind.__wrapped__(word)


@functools.lru_cache(1 << 16)
def _remembered_kind(word: str) -> tuple[bool, bool]:
    """Whether a word has a character that is no punctuation mark, and whether it has a letter."""
    return not PUNCTUATION.issuperset(word), any(map(str.isalpha, word))
