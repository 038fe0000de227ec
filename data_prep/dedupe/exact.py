"""Stage `exact`: which documents equal an earlier one."""

from typing import Any

import numpy as np

from data_prep.dedupe.records import COPY, Copies, begins, between, key_range, range_count, table_of
from data_prep.jobs.job import Item, Outputs, array_file
from data_prep.plans.plan import Plan
from data_prep.storage.arrays import write_array
from data_prep.text.document_parts import DocumentParts
from pipeline.common.progress import Advance

BYTES_PER_DOCUMENT = 96
"""What a document takes while its range of hashes is joined: hash, number and mark (25), the order (8), sorted copies (25),
the group and the first of it (16), and of a copy its record (20); measured: 73 where few are copies, 93 where all are."""


class Exact:
    """Joins the parts' sorted hashes, a range of them at a time; of equal ones the smallest document number stays.

    Corpora with `dedupe: exact`, and those with `near`, each have a first document of a text: it is recorded as a copy of
    the text's first document, and the others of its kind as copies of it. So `minhash` knows what is first among the near
    ones, and an exact corpus loses no text to a near copy: its first is dropped only where the text's first stays.

    Memory: `memory_mib` but for a text that stands n times, all of which is one range's: BYTES_PER_DOCUMENT n.
    """

    name = "exact"
    unit = "documents"

    def __init__(self, plan: Plan, parts: DocumentParts) -> None:
        self._parts = parts
        self._dedupe = {corpus.name: corpus.dedupe for corpus in plan.config.corpora}
        self._hashed = [part for part in parts if self._dedupe[part.corpus] != "none"]
        documents = sum(part.documents for part in self._hashed)
        self._ranges = range_count(documents, BYTES_PER_DOCUMENT, plan.config.dedupe.memory_mib << 20)
        self._size = -(-documents // self._ranges)

    def items(self) -> list[Item]:
        """Ranges of the hash's upper half."""
        return [Item(f"{index:05d}", self._size) for index in range(self._ranges)] if self._hashed else []

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write a range's copies."""
        low, high, document, exact_only = self._read(*key_range(int(item.name), self._ranges), advance)
        # Parts come in the order of their documents and are sorted by (hash, row): stable sorting leaves equal hashes
        # in ascending order of documents.
        order = np.lexsort((low, high))
        low, high, document, exact_only = low[order], high[order], document[order], exact_only[order]
        first = begins(low, high)
        group = np.cumsum(first) - 1
        kept = document[first][group]
        for kind in (True, False):
            places = np.flatnonzero(exact_only == kind)
            first = begins(group[places])
            kept[places[~first]] = document[places[first]][np.cumsum(first) - 1][~first]
        is_copy = kept != document
        copies = table_of(COPY, document=document[is_copy], kept=kept[is_copy], similarity=1)
        copies.sort(order="document")
        write_array(outputs.path(array_file(self, item.name)), copies)
        return {"documents_in": len(document), "documents_out": len(document) - len(copies)}

    def copies(self) -> Copies:
        """Return what the stage found."""
        return Copies([self._parts.root / array_file(self, item.name) for item in self.items()])

    def _read(self, start: int, stop: int, advance: Advance) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(lower halves, upper halves, documents, whether of an exact-only corpus) of a range."""
        found = []
        for part in self._hashed:
            found.append((part, between(self._parts.exact(part), "high", start, stop)))
            advance(len(found[-1][1]))
        return (
            np.concatenate([table["low"] for _, table in found]),
            np.concatenate([table["high"] for _, table in found]),
            np.concatenate([table["row"] + np.int64(part.first) for part, table in found]),
            np.concatenate([np.full(len(table), self._dedupe[part.corpus] == "exact") for part, table in found]),
        )
