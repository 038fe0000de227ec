"""Stage `neighbours`: pairs of documents that agree in a band and are similar."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.dedupe.kernels import agreeing_pairs
from data_prep.dedupe.minhash import MinHash, rows_needed
from data_prep.dedupe.records import COPY, begins, distinct, key_range, range_count, table_of
from data_prep.jobs.job import Item, Outputs, array_file
from data_prep.plans.plan import Plan
from data_prep.storage.arrays import mapped, write_array
from data_prep.text.document_parts import DocumentParts
from pipeline.common.progress import Advance

BYTES_PER_RECORD = 72
"""What a band's record takes while its range is joined: itself (16), the order (8, and 8 in sorting), the sorted copy (16),
marks and the bucket's first (24)."""
ROUNDS = 4
"""Stars that a bucket may give. One misses members that are unlike the bucket's first document and like another: of 3,600
similar pairs among 3,600 documents made from 12 templates it leaves 58 whole, four leave 9, for twice the comparisons."""


class Neighbours:
    """Joins the groups' sorted bands, a range of keys at a time; every bucket gives stars, never all of its pairs.

    The first star goes from the bucket's smallest document to the others; those that are not similar to it make a bucket
    of their own, up to ROUNDS times.

    Memory: half of `memory_mib` for the records of a range, half for signatures; but a bucket of n documents is all one
    range's: BYTES_PER_RECORD n.
    """

    name = "neighbours"
    unit = "bands of documents"

    def __init__(self, plan: Plan, parts: DocumentParts, minhash: MinHash) -> None:
        self._config = plan.config.dedupe
        self._parts = parts
        self._minhash = minhash
        self._half = plan.config.dedupe.memory_mib << 19
        self._records = sum(group.documents for group in minhash.groups)
        self._ranges = range_count(self._records, BYTES_PER_RECORD, self._half)
        self._needed = rows_needed(self._config.permutations, self._config.threshold)

    def items(self) -> list[Item]:
        """Bands by ranges of their keys."""
        size = -(-self._records // self._ranges)
        return [Item(f"{band:03d}-{index:05d}", size) for band in range(self._config.bands) for index in range(self._ranges)]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write the similar pairs of one range of one band."""
        band, index = map(int, item.name.split("-"))
        key, document = self._read(band, *key_range(index, self._ranges))
        records = len(key)
        edges = [np.empty(0, COPY)]
        compared = 0
        for _ in range(ROUNDS):
            first = begins(key)
            smallest = document[first][np.cumsum(first) - 1][~first]
            key, document = key[~first], document[~first]
            advance(int(first.sum()))
            agree = self._agreeing(document, smallest, advance)
            compared += len(agree)
            similar = agree > 0
            similarity = agree[similar] / self._config.permutations
            edges.append(table_of(COPY, document=document[similar], kept=smallest[similar], similarity=similarity))
            key, document = key[~similar], document[~similar]
        pairs = np.concatenate(edges)
        write_array(outputs.path(array_file(self, item.name)), pairs)
        return {"records": records, "compared": compared, "similar": len(pairs)}

    def edges(self) -> Iterator[np.ndarray]:
        """Yield the similar pairs, COPY, range by range; `kept` is the smaller document."""
        for item in self.items():
            yield mapped(self._parts.root / array_file(self, item.name))

    def _read(self, band: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(keys, documents) of a range, sorted by both."""
        tables = [self._minhash.band(group, band, start, stop) for group in self._minhash.groups]
        key = np.concatenate([table["key"] for table in tables])
        document = np.concatenate([table["document"] for table in tables])
        # Groups come in the order of their documents: stable sorting by the key alone sorts by both.
        order = np.argsort(key, kind="stable")
        return key[order], document[order]

    def _agreeing(self, documents: np.ndarray, smallest: np.ndarray, advance: Advance) -> np.ndarray:
        """In how many rows each pair agrees, 0 where the similarity is below the threshold."""
        agree = np.empty(len(documents), dtype=np.int64)
        chunk = max(1, self._half // (8 * self._config.permutations))
        for start in range(0, len(documents), chunk):
            others = smallest[start : start + chunk]
            stars = distinct(others)
            left, right = self._minhash.signatures(documents[start : start + chunk]), self._minhash.signatures(stars)
            agree[start : start + chunk] = agreeing_pairs(left, right, np.searchsorted(stars, others), self._needed)
            advance(len(others))
        return agree
