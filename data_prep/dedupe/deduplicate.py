"""Deduplication: its stages in order, and what became of every document."""

from typing import Any, Protocol

import numpy as np

from data_prep.dedupe.exact import Exact
from data_prep.dedupe.filtering import EXACT_COPY, NEAR_COPY, Filter
from data_prep.dedupe.records import Copies
from data_prep.jobs.job import Job
from data_prep.plans.plan import Plan
from data_prep.text.document_parts import DocumentPart, DocumentParts


class Stage(Protocol):
    """A stage that says what becomes of documents."""

    def decisions(self, part: DocumentPart) -> np.ndarray:
        """Return the decisions of a part's documents, uint8."""
        ...


class Decisions:
    """What became of the documents."""

    def __init__(self, examples: int, parts: DocumentParts, stage: Stage, copies: dict[int, Copies]) -> None:
        self._examples = examples
        self._parts = parts
        self._stage = stage
        self._copies = copies

    def of(self, part: DocumentPart) -> np.ndarray:
        """Return KEPT_TRAIN, KEPT_HELDOUT, EXACT_COPY, NEAR_COPY, REPEATED_TEXT or REFINED of each document, uint8."""
        return self._stage.decisions(part)

    def of_stage(self, stage: Stage, parts: DocumentParts) -> "Decisions":
        """Return what became of the documents after a later stage, which left `parts`."""
        return Decisions(self._examples, parts, stage, self._copies)

    def kept_for(self, document: int) -> tuple[int, float]:
        """Return (the document that stays for `document`, their estimated similarity): itself and 1.0 where it stays."""
        similarity = 1.0
        # What stands for a document may be a copy itself: an exact one of a near one, or the other way round.
        while (decision := self._decision(document)) in self._copies:
            record = self._copies[decision].between(document, document + 1)[0]
            document, similarity = int(record["kept"]), min(similarity, float(record["similarity"]))
        return document, similarity

    def report(self) -> list[dict[str, Any]]:
        """Return the first dropped documents of each kind, with those that stay for them."""
        return [
            self._example(kind, document)
            for kind, decision in (("exact", EXACT_COPY), ("near", NEAR_COPY))
            for document in self._first(decision)
        ]

    def _first(self, decision: int) -> list[int]:
        documents: list[int] = []
        for part in self._parts:
            if len(documents) >= self._examples:
                break
            documents += (np.flatnonzero(self.of(part) == decision) + part.first).tolist()
        return documents[: self._examples]

    def _example(self, kind: str, document: int) -> dict[str, Any]:
        kept, similarity = self.kept_for(document)
        return {
            "kind": kind,
            "document": document,
            "kept": kept,
            "similarity": similarity,
            "corpus": self._parts.part(document).corpus,
            "kept_corpus": self._parts.part(kept).corpus,
            **self._parts.document(document).shown(),
            **{f"kept_{key}": value for key, value in self._parts.document(kept).shown().items()},
        }

    def _decision(self, document: int) -> int:
        part = self._parts.part(document)
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
    return Decisions(plan.config.dedupe.examples, parts, filtered, {EXACT_COPY: exact.copies(), NEAR_COPY: near})
