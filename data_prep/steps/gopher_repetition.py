"""Step `gopher_repetition`: documents that repeat themselves."""

import re
from collections.abc import Sequence

from data_prep.steps.base import Share, Step
from data_prep.text.document import Document
from data_prep.words.english import words
from pipeline.common.config import PositiveInt

_PARAGRAPH_END = re.compile(r"\n{2,}")
_LINE_END = re.compile(r"\n+")


class GopherRepetition(Step, name="gopher_repetition"):
    """Drop a document of which too much is repeated: lines, paragraphs, n-grams of words.

    Rae et al. 2021, "Scaling Language Models" (arXiv:2112.11446), table A1, whose thresholds are the defaults, in datatrove's
    reading (GopherRepetitionFilter), with its names: n-grams and characters are counted in the document as it stands, case and
    punctuation included. A rule that is null is not applied.
    """

    dup_line_frac: Share | None = 0.30
    """Most lines that are copies of an earlier one."""
    dup_para_frac: Share | None = 0.30
    """The same of paragraphs, which blank lines separate."""
    dup_line_char_frac: Share | None = 0.20
    """Most characters in such lines."""
    dup_para_char_frac: Share | None = 0.20
    """Most characters in such paragraphs."""
    top_n_grams: dict[PositiveInt, Share] | None = {2: 0.20, 3: 0.18, 4: 0.16}
    """Most characters in all occurrences of the n-gram that occurs most often, by n."""
    dup_n_grams: dict[PositiveInt, Share] | None = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    """Most characters in n-grams that occurred before, by n."""

    def __call__(self, document: Document) -> str | None:
        """Return which rule drops the document."""
        text = document.text
        if not text:
            return None
        paragraphs = _PARAGRAPH_END.split(text.strip())
        lines = _LINE_END.split(text)
        for kind, parts, share, character_share in (
            ("paragraphs", paragraphs, self.dup_para_frac, self.dup_para_char_frac),
            ("lines", lines, self.dup_line_frac, self.dup_line_char_frac),
        ):
            copies, characters = duplicates(parts)
            if share is not None and copies / len(parts) > share:
                return f"{self.name}: duplicate {kind}"
            if character_share is not None and characters / len(text) > character_share:
                return f"{self.name}: characters in duplicate {kind}"
        top, duplicate = sorted((self.top_n_grams or {}).items()), sorted((self.dup_n_grams or {}).items())
        if top or duplicate:
            top_characters, duplicate_characters = _repetition(words(text), [n for n, _ in top], [n for n, _ in duplicate])
            for (n, share), characters in zip(top, top_characters, strict=True):
                if characters / len(text) > share:
                    return f"{self.name}: top {n}-gram"
            for (n, share), characters in zip(duplicate, duplicate_characters, strict=True):
                if characters / len(text) > share:
                    return f"{self.name}: duplicate {n}-grams"
        return None


def duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """Return how many parts are copies of an earlier one, and their characters."""
    different = set(parts)
    copies = len(parts) - len(different)
    return copies, sum(map(len, parts)) - sum(map(len, different)) if copies else 0


def _repetition(listed: Sequence[str], top: list[int], duplicate: list[int]) -> tuple[list[int], list[int]]:
    import numpy as np

    from data_prep.steps.kernels import repetition

    codes = np.frombuffer("".join(listed).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    ends = np.cumsum(np.fromiter(map(len, listed), dtype=np.int64, count=len(listed)))
    found = repetition(codes, ends, np.array(top, dtype=np.int64), np.array(duplicate, dtype=np.int64))
    return found[0].tolist(), found[1].tolist()
