"""The steps of a corpus, carried out."""

from collections import Counter

from data_prep.settings import CorpusConfig
from data_prep.steps.base import Step
from data_prep.steps.length import Length
from data_prep.text.document import Document
from data_prep.text.rejects import RESERVED, TOO_LONG, TOO_SHORT
from pipeline.common.errors import UserError

MOST_REASONS = 1000
"""A step that returns more has something of the document in its reasons."""


class Sequence:
    """Steps of a corpus, in order."""

    def __init__(self, corpus: CorpusConfig, steps: list[Step]) -> None:
        self._corpus = corpus
        self._steps = [(next(iter(step.entry())), step.fresh()) for step in steps]
        self._reasons: set[str] = set()
        self.changed: Counter[str] = Counter()
        """Documents whose text a step changed, by its name."""
        self.dropped: dict[str, Counter[str]] = {}
        """Documents that a step dropped, by its name and reason."""

    def __call__(self, document: Document) -> str | None:
        """Take a document through the steps; return why it is dropped, or None."""
        if len(document.text) > self._corpus.max_characters:
            return TOO_LONG
        for name, step in self._steps:
            before = document.text
            reason = step(document)
            if document.text is not before and document.text != before:
                self.changed[name] += 1
            if reason is not None:
                self._count(name, reason)
                return reason
        return TOO_SHORT if not document.text or document.text.isspace() else None

    def _count(self, name: str, reason: str) -> None:
        if reason in RESERVED:
            raise UserError(
                f"steps: {name}: gives the reason {reason!r}, which other losses are counted by; let it return another"
            )
        self._reasons.add(reason)
        self.dropped.setdefault(name, Counter())[reason] += 1
        if len(self._reasons) > MOST_REASONS:
            raise UserError(
                f"steps: {name}: gives more than {MOST_REASONS} different reasons, {reason[:80]!r} among them; let it return "
                "a few words that are the same for many documents"
            )


def is_short(document: Document, corpus: CorpusConfig) -> bool:
    """Whether what is left of a document that was cut is shorter than the corpus's steps before `deduplicate` keep."""
    lengths = (step for step in corpus.early_steps if isinstance(step, Length))
    return not document.text or document.text.isspace() or any(step(document) == TOO_SHORT for step in lengths)
