"""Stage `repeats`: which lines or paragraphs are removed because other documents hold them too."""

from typing import Any

import numpy as np

from data_prep.dedupe.records import begins, between, key_range, range_count, table_of
from data_prep.dedupe.span_hashes import SpanHashes
from data_prep.jobs.job import Facts, Item, Outputs, array_file
from data_prep.plans.plan import Plan
from data_prep.storage.arrays import mapped, write_array
from data_prep.text.document import Document
from data_prep.text.document_parts import DocumentPart, DocumentParts
from pipeline.common.progress import Advance

BYTES_PER_SPAN = 80
"""What a record of a part takes while its range of hashes is joined: hash, documents, part and number (32), as read and sorted,
the order (8), and of what is repeated more; measured: 70, however many are repeated."""
REPEAT = np.dtype([("span", "<i8"), ("keeps", "?")])
"""A span that a part loses, by its number in the tables of all parts, and whether the first document of the part keeps it."""


class Repeats:
    """Joins the parts' tables of spans, a range of hashes at a time.

    A corpus loses a span where `min_documents` documents hold it, of all corpora that are searched; with `keep: first` the
    first of these documents keeps it, as often as it holds it.

    Memory: `memory_mib` but for a span that n parts hold: BYTES_PER_SPAN n. Every range opens every part's table, 0.1 to 0.2 ms
    each: for 20,000 parts, where there are some hundred ranges, a tenth of the time that the stages around this one take.
    """

    name = "repeats"
    unit = "spans"

    def __init__(self, plan: Plan, parts: DocumentParts, hashes: SpanHashes, hashed: list[Facts]) -> None:
        self._parts = parts
        self._hashes = hashes
        self._examples = plan.config.dedupe.examples
        options = [hashes.options[part.corpus] for part in hashes.searched]
        self._least = np.array([each.min_documents for each in options], dtype=np.int64)
        self._keeps = np.array([each.keep == "first" for each in options], dtype=bool)
        self._firsts = np.cumsum([0, *(facts.counts["different"] for facts in hashed)])
        """The number of each part's first span."""
        self._places = {part.name: place for place, part in enumerate(hashes.searched)}
        spans = int(self._firsts[-1])
        self._ranges = range_count(spans, BYTES_PER_SPAN, plan.config.dedupe.memory_mib << 20)
        self._size = -(-spans // self._ranges)

    def items(self) -> list[Item]:
        """Ranges of the hash's upper half."""
        return [Item(f"{index:05d}", self._size) for index in range(self._ranges)]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write what a range's spans are removed from."""
        high, low, count, place, span = self._read(*key_range(int(item.name), self._ranges), advance)
        order = np.lexsort((low, high))  # stable: parts, and so documents, ascend within a hash
        high, low, count, place, span = high[order], low[order], count[order], place[order], span[order]
        first = begins(high, low)
        group = np.cumsum(first) - 1
        documents = np.bincount(group, weights=count).astype(np.int64)  # exact in float64
        keeps = first & self._keeps[place]
        is_lost = (documents[group] >= self._least[place]) & ~(keeps & (count == 1))
        found = table_of(REPEAT, span=span[is_lost], keeps=keeps[is_lost])
        found.sort(order="span")
        write_array(outputs.path(array_file(self, item.name)), found)
        lost = np.flatnonzero(np.bincount(group[is_lost], minlength=len(documents)))
        most = lost[np.lexsort((span[first][lost], -documents[lost]))][: self._examples]
        return {
            "spans": len(documents),
            "repeated": len(lost),
            "most": [[int(documents[each]), int(span[first][each])] for each in most],
        }

    def of(self, part: DocumentPart) -> tuple[np.ndarray, np.ndarray]:
        """Return (places in its table of the spans that a part loses, ascending; whether its first document keeps each)."""
        start, stop = self._firsts[self._places[part.name]], self._firsts[self._places[part.name] + 1]
        found = [between(mapped(self._parts.root / array_file(self, item.name)), "span", start, stop) for item in self.items()]
        records = np.concatenate(found)
        records.sort(order="span")
        return records["span"] - start, records["keeps"]

    def examples(self, joined: list[Facts]) -> list[dict[str, Any]]:
        """Return the spans that stand in most documents, of those that a corpus loses, and where each stands first."""
        most = sorted((each for facts in joined for each in facts.counts["most"]), key=lambda each: (-each[0], each[1]))
        found = []
        for documents, span in most[: self._examples]:
            place = int(np.searchsorted(self._firsts, span, side="right")) - 1
            part = self._hashes.searched[place]
            document, text = self._hashes.text(part, span - int(self._firsts[place]))
            shown = Document(text, document.where, document.columns).shown()
            found.append({"kind": "repeated", "documents": documents, "corpus": part.corpus} | shown)
        return found

    def _read(self, start: int, stop: int, advance: Advance) -> tuple[np.ndarray, ...]:
        """(upper halves, lower halves, documents, places of the parts, numbers of the spans) of a range."""
        found = []
        for place, part in enumerate(self._hashes.searched):
            # Tables are sorted: what is before the range counts into the spans' numbers.
            begin, table = self._hashes.between(part, start, stop)
            found.append((place, self._firsts[place] + begin, table))
            advance(len(table))
        return (
            np.concatenate([table["high"] for _, _, table in found]),
            np.concatenate([table["low"] for _, _, table in found]),
            np.concatenate([table["documents"] for _, _, table in found]),
            np.concatenate([np.full(len(table), place, dtype=np.int32) for place, _, table in found]),
            np.concatenate([np.arange(begin, begin + len(table)) for _, begin, table in found]),
        )
