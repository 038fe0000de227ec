"""Stage `choose`: which documents are dropped for which similar one that stays."""

from typing import Any

import numpy as np

from data_prep.dedupe.cluster import Cluster
from data_prep.dedupe.kernels import choose
from data_prep.dedupe.minhash import MinHash, rows_needed
from data_prep.dedupe.records import COPY, Copies, begins, table_of
from data_prep.jobs.job import Item, Outputs, array_file
from data_prep.plans.plan import Plan
from data_prep.storage.arrays import write_array
from data_prep.text.document_parts import DocumentParts
from pipeline.common.progress import Advance

REPRESENTATIVES = 1024
"""The most kept documents of a cluster that a later document is compared with."""


class Choose:
    """Drops, of every cluster, the documents that are similar to one of it that stays.

    Documents are taken in ascending order. One is kept unless its estimated similarity to a kept one is `threshold` or
    more: the smallest is always kept, and a chain of documents does not drop its far end. It is compared with
    REPRESENTATIVES kept ones at most. If a cluster keeps more, these are the ones that were kept last, or for which a
    document was dropped last. Then two similar documents may both be kept, but none is dropped without a similar one that
    is kept; n documents take at most REPRESENTATIVES n comparisons.

    Memory: half of `memory_mib` for a batch's signatures, REPRESENTATIVES more of them, and 56 bytes a document of the
    batch, which is never less than a whole cluster.
    """

    name = "choose"
    unit = "documents"

    def __init__(self, plan: Plan, parts: DocumentParts, minhash: MinHash, cluster: Cluster) -> None:
        self._permutations = plan.config.dedupe.permutations
        self._needed = rows_needed(self._permutations, plan.config.dedupe.threshold)
        self._parts = parts
        self._minhash = minhash
        self._cluster = cluster

    def items(self) -> list[Item]:
        """Batches of the clusters' members."""
        return [Item(f"{index:05d}", stop - start) for index, (start, stop) in enumerate(self._cluster.batches())]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write a batch's copies."""
        begin, end = self._cluster.batches()[int(item.name)]
        representatives, used = np.empty(REPRESENTATIVES, np.int64), np.empty(REPRESENTATIVES, np.int64)
        representative_signatures = np.empty((REPRESENTATIVES, self._permutations), np.uint32)
        count = 0
        found = [np.empty(0, COPY)]
        # More than one round where a single cluster is larger than a batch should be.
        for start in range(begin, end, self._cluster.batch):
            members = self._cluster.members(start, min(start + self._cluster.batch, end))
            document, starts = np.ascontiguousarray(members["document"]), begins(members["cluster"])
            starts[0] = start == begin
            signatures = self._minhash.signatures(document)
            kept, agree = np.empty(len(members), np.int64), np.empty(len(members), np.int64)
            count = choose(
                signatures, document, starts, self._needed, representatives, representative_signatures, used, count, kept, agree
            )
            dropped = kept >= 0
            similarity = agree[dropped] / self._permutations
            found.append(table_of(COPY, document=document[dropped], kept=kept[dropped], similarity=similarity))
            advance(len(members))
        copies = np.concatenate(found)
        copies.sort(order="document")
        write_array(outputs.path(array_file(self, item.name)), copies)
        return {"documents_in": end - begin, "documents_out": end - begin - len(copies)}

    def copies(self) -> Copies:
        """Return what the stage found."""
        return Copies([self._parts.root / array_file(self, item.name) for item in self.items()])
