"""Stage `refine`: the steps behind deduplication."""

from collections import Counter
from typing import Any

from data_prep.dedupe.deduplicate import Decisions
from data_prep.dedupe.filtering import REFINED
from data_prep.plans.plan import Plan
from data_prep.stages.rewriting import Rewriting
from data_prep.steps.language import Language
from data_prep.steps.sequence import Sequence
from data_prep.text.document import Document
from data_prep.text.document_parts import DocumentPart, DocumentParts
from data_prep.text.values import as_json


class Refine(Rewriting):
    """Takes the documents that stay through the steps behind `deduplicate`."""

    name = "refine"
    decision = REFINED

    def __init__(self, plan: Plan, parts: DocumentParts, decisions: Decisions) -> None:
        super().__init__(plan, parts, decisions, lambda corpus: bool(corpus.late_steps))

    def change(self, part: DocumentPart) -> "_LateSteps":
        """Return the corpus's late steps."""
        corpus = self._plan.corpus(part.corpus)
        early, late = (any(isinstance(step, Language) for step in steps) for steps in (corpus.early_steps, corpus.late_steps))
        return _LateSteps(Sequence(corpus, corpus.late_steps), late and not early)


class _LateSteps:
    def __init__(self, sequence: Sequence, count_languages: bool) -> None:
        """`count_languages` where the languages are not known, and counted, before these steps."""
        self._sequence = sequence
        self._count_languages = count_languages
        self._languages: Counter[str] = Counter()

    def __call__(self, batch: list[tuple[int, Document]]) -> None:
        for _, document in batch:
            document.dropped = self._sequence(document)
            document.text = as_json(document.text)
            if document.dropped is None and self._count_languages:
                self._languages[document.columns["language"]] += 1

    def facts(self) -> dict[str, Any]:
        return {
            "changed": dict(self._sequence.changed),
            "dropped_by": self._sequence.dropped,
            "languages": dict(self._languages.most_common()),
        }
