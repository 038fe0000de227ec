"""Deduplication of lines and paragraphs: its stages in order, and what they removed."""

from dataclasses import dataclass, field, replace
from typing import Any

from data_prep.dedupe.deduplicate import Decisions
from data_prep.jobs.job import Facts, Job
from data_prep.plans.plan import Plan
from data_prep.stages.rewriting import Rewriting
from data_prep.text.document_parts import DocumentParts
from data_prep.text.rejects import dropped_examples


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

    def and_rewritten(self, stage: Rewriting, rewritten: list[Facts]) -> "Deduplicated":
        """Return what a further stage leaves."""
        parts = stage.parts(rewritten)
        decisions = replace(self.decisions, parts=parts, of=stage.decisions)
        return replace(self, parts=parts, decisions=decisions, rewritten=[*self.rewritten, *rewritten])


def dedupe_spans(job: Job, plan: Plan, parts: DocumentParts, decisions: Decisions) -> Deduplicated:
    """Carry out the stages that corpora with `dedupe_spans` ask for, in every process.

    Copies have gone by then: removed is what documents that stay have in common, and no copy is cut up line by line.
    """
    # For numba, as in `deduplicate`.
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
