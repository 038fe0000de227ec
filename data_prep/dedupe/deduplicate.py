"""Deduplication of documents, and of their lines and paragraphs: the stages in order, and what became of every document."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.dedupe.exact import Exact
from data_prep.dedupe.filtering import EXACT_COPY, NEAR_COPY, Filter
from data_prep.dedupe.records import Copies
from data_prep.jobs.job import Facts, Job
from data_prep.plans.plan import Plan
from data_prep.text.document_parts import DocumentPart, DocumentParts
from data_prep.text.rejects import dropped_examples

if TYPE_CHECKING:
    from data_prep.stages.rewriting import Rewriting


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


@dataclass(frozen=True)
class Deduplicated:
    """What the stages left."""

    parts: DocumentParts
    """Some are rewritten."""
    decisions: Decisions
    """What became of their documents."""
    rewritten: list[Facts] = field(default_factory=list)
    """Of the parts that were rewritten."""
    repeated: list[dict[str, Any]] = field(default_factory=list)
    """The spans that stand in most documents, of those that were removed."""

    def report(self) -> list[dict[str, Any]]:
        """Return those spans, and the first documents that each corpus lost."""
        return self.repeated + dropped_examples((each.counts["corpus"], each.counts["shown"]) for each in self.rewritten)

    def and_rewritten(self, stage: "Rewriting", rewritten: list[Facts]) -> "Deduplicated":
        """Return what a further stage leaves."""
        parts = stage.parts(rewritten)
        decisions = replace(self.decisions, parts=parts, of=stage.decisions)
        return replace(self, parts=parts, decisions=decisions, rewritten=[*self.rewritten, *rewritten])


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


def dedupe_spans(job: Job, plan: Plan, parts: DocumentParts, decisions: Decisions) -> Deduplicated:
    """Carry out the stages that corpora with `dedupe_spans` ask for, in every process.

    Copies have gone by then: removed is what documents that stay have in common, and no copy is cut up line by line.
    """
    # For numba, as in `deduplicate`; and for what they share with the stage `refine`.
    from data_prep.dedupe.repeats import Repeats
    from data_prep.dedupe.span_hashes import SpanHashes
    from data_prep.dedupe.span_removal import Rewrite

    hashes = SpanHashes(plan, parts, decisions)
    if not hashes.searched:
        return Deduplicated(parts, decisions)
    repeats = Repeats(plan, parts, hashes, job.run(hashes))
    joined = job.run(repeats)
    rewrite = Rewrite(plan, parts, decisions, hashes, repeats)
    return Deduplicated(parts, decisions, repeated=repeats.examples(joined)).and_rewritten(rewrite, job.run(rewrite))
