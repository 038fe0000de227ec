"""Deduplication: its stages in order, and what became of every document."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from data_prep.dedupe.exact import Exact
from data_prep.dedupe.filtering import EXACT_COPY, NEAR_COPY, Filter
from data_prep.dedupe.records import Copies
from data_prep.jobs.job import Job
from data_prep.plans.plan import Plan
from data_prep.text.document_parts import DocumentPart, DocumentParts


@dataclass(frozen=True)
class Decisions:
    """What became of the documents."""

    examples: int
    """How many dropped documents of each kind are reported."""
    parts: DocumentParts
    of: Callable[[DocumentPart], np.ndarray]
    """KEPT_TRAIN, KEPT_HELDOUT, EXACT_COPY, NEAR_COPY, REPEATED_TEXT or REFINED of each document of a part, uint8."""
    copies: dict[int, Copies]
    """By EXACT_COPY and NEAR_COPY."""

    def kept_for(self, document: int) -> tuple[int, float]:
        """Return (the document that stays for `document`, their estimated similarity): itself and 1.0 where it stays."""
        similarity = 1.0
        # What stands for a document may be a copy itself: an exact one of a near one, or the other way round.
        while (decision := self._decision(document)) in self.copies:
            record = self.copies[decision].between(document, document + 1)[0]
            document, similarity = int(record["kept"]), min(similarity, float(record["similarity"]))
        return document, similarity

    def report(self) -> list[dict[str, Any]]:
        """Return the first dropped documents of each kind, with those that stay for them."""
        return [
            self._example(kind, document)
            for kind, decision in (("exact", EXACT_COPY), ("near", NEAR_COPY))
            for document in self._first(decision)
        ]

    def _first(self, decision: int) -> Iterator[int]:
        found = ((np.flatnonzero(self.of(part) == decision) + part.first).tolist() for part in self.parts)
        return islice(chain.from_iterable(found), self.examples)

    def _example(self, kind: str, document: int) -> dict[str, Any]:
        kept, similarity = self.kept_for(document)
        return {
            "kind": kind,
            "document": document,
            "kept": kept,
            "similarity": similarity,
            "corpus": self.parts.part(document).corpus,
            "kept_corpus": self.parts.part(kept).corpus,
            **self.parts.document(document).shown(),
            **{f"kept_{key}": value for key, value in self.parts.document(kept).shown().items()},
        }

    def _decision(self, document: int) -> int:
        part = self.parts.part(document)
        return int(self.of(part)[document - part.first])


def deduplicate(job: Job, plan: Plan, parts: DocumentParts) -> Decisions:
    """Carry out the stages that the corpora ask for, in every process, and return what became of the documents."""
    # Of no use to a run whose text is prepared, and numba, which they need, takes half a second.
    from data_prep.dedupe.choosing import Choose
    from data_prep.dedupe.cluster import Cluster
    from data_prep.dedupe.minhash import MinHash
    from data_prep.dedupe.neighbours import Neighbours

    exact = Exact(plan, parts)
    minhash = MinHash(plan, parts, exact.copies())
    near = Copies([])
    if exact.items():
        job.run(exact)
    if minhash.items():
        neighbours = Neighbours(plan, parts, minhash)
        cluster = Cluster(plan, parts, neighbours)
        choose = Choose(plan, parts, minhash, cluster)
        for stage in (minhash, neighbours, cluster, choose):
            job.run(stage)
        near = choose.copies()
    filtered = Filter(plan, parts, exact.copies(), near)
    job.run(filtered)
    return Decisions(plan.config.dedupe.examples, parts, filtered.decisions, {EXACT_COPY: exact.copies(), NEAR_COPY: near})
