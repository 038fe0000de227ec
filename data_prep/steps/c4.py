"""Step `c4`: lines that are no sentences, and documents with few of them."""

import re

from data_prep.steps.base import Step
from data_prep.text.document import Document
from data_prep.words.english import sentences
from pipeline.common.config import PositiveInt

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_ENDS = (".", "?", "!", '"', "'")
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class C4(Step, name="c4"):
    """Remove lines that are no sentences, and drop a document with few sentences left, a curly bracket or lorem ipsum.

    Raffel et al. 2020, "Exploring the Limits of Transfer Learning" (JMLR 21:140), section 2.2, and the code that made the data
    set, in datatrove's reading (C4QualityFilter), with its names. The list of bad words is not applied, nor is a rule that is
    null or false.
    """

    max_word_length: PositiveInt | None = 1000
    """A line with a longer word is removed."""
    remove_citations: bool = True
    """Whether Wikipedia's [1], [edit] and [citation needed] are cut out of lines."""
    filter_no_terminal_punct: bool = True
    """Whether a line must end with one of . ? ! " ' and not with an ellipsis."""
    min_words_per_line: PositiveInt | None = 3
    """A line with fewer words is removed."""
    filter_lorem_ipsum: bool = True
    """Whether a document with the words lorem ipsum is dropped."""
    filter_javascript: bool = True
    """Whether a line that mentions it is removed."""
    filter_curly_bracket: bool = True
    """Whether a document with { in a line that is left is dropped."""
    filter_policy: bool = True
    """Whether a line about cookies, terms of use or privacy is removed."""
    min_num_sentences: PositiveInt | None = 5
    """Fewest sentences of a document in the lines that are left."""

    def __call__(self, document: Document) -> str | None:
        """Remove lines; return which rule drops the document."""
        found = 0
        kept: list[str] = []
        for line in map(str.strip, document.text.splitlines()):
            listed = line.split()
            if self.max_word_length is not None and any(len(word) > self.max_word_length for word in listed):
                continue
            if self.remove_citations and "[" in line:
                line = _CITATION.sub("", line)
            if self.filter_no_terminal_punct and (not line.endswith(_ENDS) or line.endswith("...")):
                continue
            if self.min_words_per_line is not None and len(listed) < self.min_words_per_line:
                continue
            lower = line.lower()
            if self.filter_lorem_ipsum and "lorem ipsum" in lower:
                return f"{self.name}: lorem ipsum"
            if self.filter_javascript and "javascript" in lower:
                continue
            if self.filter_curly_bracket and "{" in line:
                return f"{self.name}: curly bracket"
            if self.filter_policy and any(policy in lower for policy in _POLICIES):
                continue
            if self.min_num_sentences is not None:
                found += sentences(line)
            kept.append(line)
        if self.min_num_sentences is not None and found < self.min_num_sentences:
            return f"{self.name}: few sentences"
        text = "\n".join(kept).strip()
        if not text:
            return f"{self.name}: no line left"
        document.text = text
        return None
