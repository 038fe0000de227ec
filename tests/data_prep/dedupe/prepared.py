"""Documents as the stages before leave them, and deduplication run on them by any number of processes."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_prep.dedupe.deduplicate import Decisions, Deduplicated, dedupe_spans, deduplicate
from data_prep.dedupe.filtering import EXACT_COPY
from data_prep.jobs.job import WORK, Job, Outputs
from data_prep.jobs.workers import Alone
from data_prep.plans.plan import Plan
from data_prep.settings import CorpusConfig, DataPrepConfig, DedupeConfig, TokenizerConfig
from data_prep.text.document import Document
from data_prep.text.document_parts import DocumentPart, DocumentParts, DocumentPartWriter
from data_prep.text.slice_writer import text_hash
from tests.messages import taken_by

_LIMIT_SECONDS = 120
Result = TypeVar("Result")


@dataclass(frozen=True)
class Corpus:
    name: str
    dedupe: str
    texts: list[str]
    heldout: frozenset[int] = frozenset()
    dedupe_spans: dict[str, object] | None = None


@dataclass(frozen=True)
class Rank:
    """One of several threads that share a job as processes do."""

    rank: int
    count: int
    meeting: threading.Barrier
    sent: list[object]
    """Shared by the threads."""

    def barrier(self) -> None:
        self.meeting.wait(_LIMIT_SECONDS)

    def from_first(self, make: Callable[[], Result]) -> Result:
        if self.rank == 0:
            self.sent[:] = [make()]
        self.barrier()
        (sent,) = self.sent
        self.barrier()
        return sent

    def abort(self, status: int) -> None:
        self.meeting.abort()


class Prepared:
    def __init__(self, root: Path, corpora: list[Corpus], per_part: int = 100, **dedupe: float) -> None:
        self.root = root
        config = DataPrepConfig(
            output_dir=str(root),
            corpora=[
                CorpusConfig(name=corpus.name, dedupe=corpus.dedupe, files=["none"], dedupe_spans=corpus.dedupe_spans)
                for corpus in corpora
            ],
            dedupe=DedupeConfig(**dedupe),
            tokenizer=TokenizerConfig(vocab_size=100),
        )
        self.plan = Plan.model_construct(digest="digest", config=config)
        self.texts: list[str] = []
        parts = []
        indices: Counter[str] = Counter()
        for corpus in corpora:
            for start in range(0, len(corpus.texts), per_part):
                facts = self._write(f"{len(parts):05d}-000", corpus, range(start, min(start + per_part, len(corpus.texts))))
                parts.append(DocumentPart(corpus=corpus.name, index=indices[corpus.name], first=len(self.texts), **facts))
                indices[corpus.name] += 1
                self.texts += corpus.texts[start : start + per_part]
        self.parts = DocumentParts(root, parts)

    def _write(self, name: str, corpus: Corpus, rows: range) -> dict[str, object]:
        outputs = Outputs(self.root)
        writer = DocumentPartWriter(outputs, name, hashed=corpus.dedupe != "none")
        for row in rows:
            text = corpus.texts[row]
            writer.add(Document(text, f"row {row}"), len(text.encode()), text_hash(text), row in corpus.heldout)
        facts = writer.close()
        outputs.commit()
        return facts

    def deduplicate(self, workers: int = 1) -> Decisions:
        return self._run(lambda job: deduplicate(job, self.plan, self.parts), workers)

    def dedupe_spans(self, workers: int = 1) -> Deduplicated:
        return self._run(lambda job: dedupe_spans(job, self.plan, self.parts, deduplicate(job, self.plan, self.parts)), workers)

    def _run(self, stages: Callable[[Job], Result], workers: int) -> Result:
        self.lines: list[str] = []

        def of_rank(workers: Alone | Rank) -> Result:
            return stages(Job(self.root, self.plan.digest, workers))

        if workers == 1:
            with taken_by(self.lines.append):
                return of_rank(Alone())
        meeting, sent = threading.Barrier(workers), []
        with ThreadPoolExecutor(workers) as pool:
            first, *_ = pool.map(of_rank, [Rank(rank, workers, meeting, sent) for rank in range(workers)])
            return first

    def decisions(self, decisions: Decisions) -> list[int]:
        return np.concatenate([decisions.of(part) for part in self.parts]).tolist()

    def dropped(self, decisions: Decisions) -> list[int]:
        return [document for document, decision in enumerate(self.decisions(decisions)) if decision >= EXACT_COPY]

    def files(self) -> dict[str, bytes]:
        """Everything that the stages left, by name."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted((self.root / WORK).rglob("*"))
            if path.is_file()
        }


def decided(root: Path, *corpora: Corpus, **options: float) -> tuple[list[int], Decisions]:
    """What becomes of each document, as a list and as deduplication gives it."""
    prepared = Prepared(root, list(corpora), **options)
    decisions = prepared.deduplicate()
    return prepared.decisions(decisions), decisions
