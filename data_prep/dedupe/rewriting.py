"""Stage `rewrite`: parts without the lines or paragraphs that are removed."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from data_prep.arrays import write_array
from data_prep.dedupe.deduplicate import Fates
from data_prep.dedupe.filtering import EXACT_COPY, REASONS, REPEATED_TEXT
from data_prep.dedupe.kernels import find_pairs
from data_prep.dedupe.records import begins
from data_prep.dedupe.repeats import Repeats
from data_prep.dedupe.span_hashes import SpanHashes
from data_prep.dedupe.spans import Spans, without_lines
from data_prep.job import WORK, Facts, Item, Outputs
from data_prep.plan import Plan
from data_prep.progress import BYTES, Advance
from data_prep.steps.sequence import Sequence
from data_prep.text.document import Document
from data_prep.text.document_files import DocumentWriter
from data_prep.text.parts import Part, Parts, documents_file
from data_prep.text.rejects import Rejects
from data_prep.text.slice_writer import utf8_bytes

_BATCH_CHARACTERS = 1 << 19
"""Text whose spans are found together."""


class Rewrite:
    """Writes the parts whose corpus has `dedupe_spans` anew, each document in its row, and what becomes of the documents.

    One of which less is left than its corpus keeps is dropped; it and copies stand there whole, as they were when they went.
    """

    name = "rewrite"
    unit = BYTES

    def __init__(self, plan: Plan, parts: Parts, fates: Fates, hashes: SpanHashes, repeats: Repeats) -> None:
        self._plan = plan
        self._parts = parts
        self._fates = fates
        self._hashes = hashes
        self._repeats = repeats

    def items(self) -> list[Item]:
        """The parts."""
        return self._hashes.items()

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write one part."""
        part = self._parts.named(item.name)
        corpus = self._plan.corpus(part.corpus)
        sequence, rejects, find = Sequence(corpus), Rejects(), self._hashes.finder(part)
        lost = _Lost(self._hashes.table(part), *self._repeats.of(part))
        fates = self._fates.of(part)
        removed: Counter[str] = Counter()
        changed = read = bytes_ = characters = 0
        written = DocumentWriter(outputs.path(documents_file(self._folder, part.name)))
        for batch in _batches(self._parts.chosen_documents(part, np.ones(part.documents, dtype=bool))):
            found = lost.in_documents(find([document.text for _, document in batch]), [row for row, _ in batch])
            for row, document in batch:
                size = utf8_bytes(document.text)
                advance(size)
                read += size
                if row in found and fates[row] < EXACT_COPY:
                    lines = np.concatenate([np.arange(begin, stop) for begin, stop in found[row].tolist()])
                    rest = Document(without_lines(document.text, lines), document.where)
                    if sequence.is_short(rest):
                        fates[row] = REPEATED_TEXT
                        rejects.add_document(REASONS[REPEATED_TEXT], document)
                    else:
                        changed += 1
                        removed[f"{corpus.dedupe_spans.unit}s"] += len(found[row])
                        removed["characters"] += len(document.text) - len(rest.text)
                        document.text = rest.text
                        size = utf8_bytes(rest.text)
                written.add(document, size)
                characters += len(document.text)
                bytes_ += size
        written.close()
        write_array(outputs.path(self._fates_file(part.name)), fates)
        staying = int((fates < EXACT_COPY).sum())
        return {
            "corpus": part.corpus,
            "documents_in": staying + rejects.counts[REASONS[REPEATED_TEXT]],
            "documents_out": staying,
            "bytes_in": read,
            "bytes_out": bytes_,
            "characters": characters,
            "changed": changed,
            "removed": dict(removed),
            "examples": rejects.examples,
            "shown": rejects.shown,
        }

    def parts(self, rewritten: list[Facts]) -> Parts:
        """Return the parts with what the stage wrote in place of what it read."""
        counts = {facts.item: facts.counts for facts in rewritten}
        return Parts(
            self._parts.root,
            [
                replace(part, folder=self._folder, bytes=told["bytes_out"], characters=told["characters"])
                if (told := counts.get(part.name))
                else part
                for part in self._parts
            ],
        )

    def fates(self, part: Part) -> np.ndarray:
        """Return the fates of a part that was rewritten or not, uint8."""
        is_rewritten = self._plan.corpus(part.corpus).dedupe_spans is not None
        return np.load(self._parts.root / self._fates_file(part.name)) if is_rewritten else self._fates.of(part)

    @property
    def _folder(self) -> str:
        return f"{WORK}/{self.name}"

    def _fates_file(self, name: str) -> str:
        return f"{self._folder}/{name}.npy"


class _Lost:
    """The spans that a part loses."""

    def __init__(self, table: np.ndarray, places: np.ndarray, keeps: np.ndarray) -> None:
        records = table[places]
        self._high, self._low = np.ascontiguousarray(records["high"]), np.ascontiguousarray(records["low"])
        self._kept_in = np.where(keeps, records["row"].astype(np.int64), -1)

    def in_documents(self, spans: Spans, rows: list[int]) -> dict[int, np.ndarray]:
        """Return the spans that documents lose, (first line, line behind the last one), by the documents' rows in the part."""
        places = np.empty(len(spans.high), dtype=np.int64)
        find_pairs(spans.high, spans.low, self._high, self._low, places)
        row = np.repeat(rows, spans.counts)
        is_lost = places >= 0
        is_lost[is_lost] = self._kept_in[places[is_lost]] != row[is_lost]
        row, lines = row[is_lost], spans.lines[is_lost]
        starts = np.flatnonzero(begins(row))
        return dict(zip(row[starts].tolist(), np.split(lines, starts[1:]), strict=True)) if len(row) else {}


def _batches(documents: Iterator[tuple[int, Document]]) -> Iterator[list[tuple[int, Document]]]:
    """Documents together, up to _BATCH_CHARACTERS and the last one."""
    batch: list[tuple[int, Document]] = []
    characters = 0
    for row, document in documents:
        batch.append((row, document))
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
