"""Step `fineweb`: documents that are lists, menus or templates."""

from data_prep.steps.base import Share, Step
from data_prep.steps.gopher_repetition import duplicates
from data_prep.text.document import Document
from data_prep.words.english import words
from data_prep.words.punctuation import TERMINAL
from pipeline.common.config import NonNegative, PositiveInt


class FineWeb(Step, name="fineweb"):
    """Drop a document whose lines do not end as sentences do, are short, repeat each other, or hold few words.

    Penedo et al. 2024, "The FineWeb Datasets" (arXiv:2406.17557), section 3.6, with the thresholds and names of the code that
    made the data set (datatrove's FineWebQualityFilter): the paper gives 0.1 for `char_duplicates_ratio`, and does not mention
    `new_line_ratio`. A rule that is null is not applied.
    """

    line_punct_thr: Share | None = 0.12
    """Fewest lines that end with a mark that ends sentences."""
    line_punct_exclude_zero: bool = False
    """Whether a document without any such line stays."""
    short_line_thr: Share | None = 0.67
    """Most lines of `short_line_length` characters or fewer."""
    short_line_length: PositiveInt = 30
    """Characters up to which a line is short."""
    char_duplicates_ratio: Share | None = 0.01
    """Most characters in lines that are copies of an earlier one."""
    new_line_ratio: NonNegative | None = 0.3
    """Most line ends per word."""

    def __call__(self, document: Document) -> str | None:
        """Return which rule drops the document; lines of white space do not count."""
        text = document.text
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            return f"{self.name}: empty"
        if self.line_punct_thr is not None:
            share = sum(line[-1] in TERMINAL for line in lines) / len(lines)
            if share < self.line_punct_thr and not (share == 0 and self.line_punct_exclude_zero):
                return f"{self.name}: lines without end punctuation"
        if self.short_line_thr is not None:
            short = sum(len(line) <= self.short_line_length for line in lines)
            if short / len(lines) > self.short_line_thr:
                return f"{self.name}: short lines"
        line_ends = text.count("\n")
        if self.char_duplicates_ratio is not None:
            _, characters = duplicates(lines)
            if characters / (len(text) - line_ends) > self.char_duplicates_ratio:
                return f"{self.name}: characters in duplicate lines"
        if self.new_line_ratio is not None and line_ends / len(words(text)) > self.new_line_ratio:
            return f"{self.name}: few words per line"
        return None
