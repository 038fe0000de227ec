"""Stages that rewrite parts."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from data_prep.dedupe.deduplicate import Decisions
from data_prep.dedupe.filtering import EXACT_COPY
from data_prep.jobs.job import WORK, Facts, Item, Outputs, array_file
from data_prep.plans.plan import Plan
from data_prep.settings import CorpusConfig
from data_prep.storage.arrays import write_array
from data_prep.text.batches import batches
from data_prep.text.document import Document
from data_prep.text.document_parts import DocumentPart, DocumentParts, DocumentWriter, documents_file, read_documents
from data_prep.text.rejects import Rejects
from data_prep.text.slice_writer import utf8_bytes
from pipeline.common.progress import BYTES, Advance


class Change(Protocol):
    """What is done to the documents of a part."""

    def __call__(self, batch: list[tuple[int, Document]]) -> None:
        """Change documents, (row, document) each, in place, and say in `dropped` why one goes; it may be empty."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what was done, beside the documents that were dropped."""
        ...


class Rewriting(ABC):
    """A stage that rewrites some corpora's parts, each document in its row, and what becomes of the documents.

    One that is dropped stands there as it was when it went, with the reason.
    """

    name: str
    unit = BYTES
    decision: int
    """What becomes of the documents that it drops."""

    def __init__(self, plan: Plan, parts: DocumentParts, decisions: Decisions, applies: Callable[[CorpusConfig], bool]) -> None:
        self._plan = plan
        self._parts = parts
        self._decisions = decisions
        self._rewritten = {corpus.name for corpus in plan.config.corpora if applies(corpus)}

    @abstractmethod
    def change(self, part: DocumentPart) -> Change:
        """Return what is done to a part's documents."""

    def items(self) -> list[Item]:
        """The parts that are rewritten."""
        return [Item(part.name, part.bytes) for part in self._parts if part.corpus in self._rewritten]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write one part."""
        part = self._parts.named(item.name)
        change, rejects = self.change(part), Rejects()
        decisions = self._decisions.of(part)
        read = bytes_ = characters = 0
        written = DocumentWriter(outputs.path(documents_file(self._folder, part.name)))
        for batch in batches(read_documents(self._parts.path(part)), lambda item: len(item[1].text)):
            size = sum(utf8_bytes(document.text) for _, document in batch)
            advance(size)
            read += size
            staying = [(row, document) for row, document in batch if decisions[row] < EXACT_COPY]
            change(staying)
            for row, document in staying:
                if document.dropped is not None:
                    decisions[row] = self.decision
                    rejects.add_document(document, document.dropped)
            for _, document in batch:
                size = utf8_bytes(document.text)
                written.add(document, size)
                characters += len(document.text)
                bytes_ += size
        written.close()
        write_array(outputs.path(array_file(self, part.name)), decisions)
        stayed = int((decisions < EXACT_COPY).sum())
        return {
            "corpus": part.corpus,
            "documents_in": stayed + sum(rejects.counts.values()),
            "documents_out": stayed,
            "bytes_in": read,
            "bytes_out": bytes_,
            "characters": characters,
            "dropped": dict(rejects.counts),
            "examples": rejects.examples,
            "shown": rejects.shown,
            **change.facts(),
        }

    def parts(self, rewritten: list[Facts]) -> DocumentParts:
        """Return the parts with what the stage wrote in place of what it read."""
        counts = {facts.item: facts.counts for facts in rewritten}
        return DocumentParts(
            self._parts.root,
            [
                replace(part, folder=self._folder, bytes=found["bytes_out"], characters=found["characters"])
                if (found := counts.get(part.name))
                else part
                for part in self._parts
            ],
        )

    def decisions(self, part: DocumentPart) -> np.ndarray:
        """Return the decisions of a part that was rewritten or not, uint8."""
        if part.corpus in self._rewritten:
            return np.load(self._parts.root / array_file(self, part.name))
        return self._decisions.of(part)

    @property
    def _folder(self) -> str:
        return f"{WORK}/{self.name}"
