"""Stage `spans`: which lines or paragraphs the documents hold that stay."""

from typing import Any

import numpy as np

from data_prep.dedupe.deduplicate import Decisions
from data_prep.dedupe.filtering import EXACT_COPY
from data_prep.dedupe.records import begins, places_between, table_of
from data_prep.dedupe.spans import SpanFinder
from data_prep.jobs.job import Item, Outputs, array_file
from data_prep.plans.plan import Plan
from data_prep.storage.arrays import mapped, write_array
from data_prep.text.document import Document
from data_prep.text.document_parts import DocumentPart, DocumentParts
from pipeline.common.progress import BYTES, Advance

SPAN = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4"), ("documents", "<u4")])
"""A span's hash, the row of the first document of a part that holds it, and how many of the part's documents do."""


class SpanHashes:
    """Hashes the spans of the parts whose corpus has `dedupe_spans`, of the documents that are no copies.

    A part leaves SPAN records, sorted by hash, one for each different span: one that stands in many documents takes the space
    of one in every part. In memory are about 100 bytes a span of the part, and nine a character of the longest document.
    """

    name = "spans"
    unit = BYTES

    def __init__(self, plan: Plan, parts: DocumentParts, decisions: Decisions) -> None:
        self._parts = parts
        self._decisions = decisions
        self.options = {each.name: each.dedupe_spans for each in plan.config.corpora if each.dedupe_spans is not None}
        """What is asked for, by corpus."""
        self.searched = [part for part in parts if part.corpus in self.options]

    def items(self) -> list[Item]:
        """The parts."""
        return [Item(part.name, part.bytes) for part in self.searched]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Hash the spans of a part."""
        part = self._parts.named(item.name)
        find = self.finder(part)
        highs, lows, rows = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        staying = self._decisions.of(part) < EXACT_COPY
        for begin, texts in self._parts.texts(part):
            wanted = np.flatnonzero(staying[begin : begin + len(texts)])
            spans = find([texts[place] for place in wanted.tolist()])
            highs.append(spans.high)
            lows.append(spans.low)
            rows.append(np.repeat(wanted + begin, spans.counts))
            advance(part.bytes * len(texts) // part.documents)
        high, low, row = np.concatenate(highs), np.concatenate(lows), np.concatenate(rows)
        order = np.lexsort((low, high))  # stable: rows ascend within a hash
        high, low, row = high[order], low[order], row[order]
        first = begins(high, low)
        documents = np.bincount((np.cumsum(first) - 1)[begins(high, low, row)], minlength=int(first.sum()))
        table = table_of(SPAN, high=high[first], low=low[first], row=row[first], documents=documents)
        write_array(outputs.path(array_file(self, part.name)), table)
        return {"documents_out": int(staying.sum()), "spans": len(row), "different": len(table)}

    def finder(self, part: DocumentPart) -> SpanFinder:
        """Return what finds the spans of a part."""
        options = self.options[part.corpus]
        return SpanFinder(options.unit, options.min_words)

    def between(self, part: DocumentPart, start: int, stop: int) -> tuple[int, np.ndarray]:
        """Return (the place of the first, a copy) of a part's records whose hash's upper half lies in [start, stop)."""
        table = self.table(part)
        places = places_between(table, "high", start, stop)
        return places.start, np.array(table[places])

    def table(self, part: DocumentPart) -> np.ndarray:
        """Return a part's records, SPAN, memory-mapped."""
        return mapped(self._parts.root / array_file(self, part.name))

    def text(self, part: DocumentPart, place: int) -> tuple[Document, str]:
        """Return the first document of a part that holds one of its spans, given by its place in the table, and the span."""
        record = self.table(part)[place]
        document = self._parts.document(part.first + int(record["row"]))
        spans = self.finder(part)([document.text])
        found = np.flatnonzero((spans.high == record["high"]) & (spans.low == record["low"]))[0]
        begin, stop = spans.lines[found].tolist()
        return document, "\n".join(document.text.split("\n")[begin:stop])
