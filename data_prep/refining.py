"""Stage `refine`: the steps behind deduplication."""

from typing import Any

from data_prep.dedupe.deduplicate import Fates
from data_prep.dedupe.filtering import REFINED
from data_prep.plan import Plan
from data_prep.rewriting import Rewriting
from data_prep.steps.sequence import Sequence
from data_prep.text.document import Document
from data_prep.text.parts import Part, Parts
from data_prep.text.values import as_json


class Refine(Rewriting):
    """Takes the documents that stay through the steps behind `deduplicate`."""

    name = "refine"
    fate = REFINED

    def __init__(self, plan: Plan, parts: Parts, fates: Fates) -> None:
        super().__init__(plan, parts, fates, lambda corpus: bool(corpus.late_steps))

    def change(self, part: Part) -> "_LateSteps":
        """Return the corpus's late steps."""
        corpus = self._plan.corpus(part.corpus)
        return _LateSteps(Sequence(corpus, corpus.late_steps))


class _LateSteps:
    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence

    def __call__(self, batch: list[tuple[int, Document]]) -> None:
        for _, document in batch:
            document.dropped = self._sequence(document)
            document.text = as_json(document.text)

    def facts(self) -> dict[str, Any]:
        return {"changed": dict(self._sequence.changed), "dropped_by": self._sequence.dropped}
