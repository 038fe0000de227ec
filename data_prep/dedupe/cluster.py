"""Stage `cluster`: which documents hang together by similar pairs."""

from itertools import pairwise
from typing import Any

import numpy as np

from data_prep.dedupe.kernels import flatten, join
from data_prep.dedupe.neighbours import Neighbours
from data_prep.dedupe.records import distinct, table_of
from data_prep.jobs.job import Item, Outputs, array_file
from data_prep.plans.plan import Plan
from data_prep.storage.arrays import mapped, write_array, write_blocks
from data_prep.text.document_parts import DocumentParts
from pipeline.common.progress import Advance

BATCH = 1 << 16
"""Documents of a batch at most, but for a cluster that is larger: some seconds of work, enough to share out."""
MEMBER = np.dtype([("cluster", "<i8"), ("document", "<i8")])
"""A document that has a similar one; clusters are numbered in the order of their smallest document, with gaps."""
_BLOCK = 1 << 16


class Cluster:
    """Finds the connected components of the similar pairs, and cuts them into batches for the next stage.

    The members of all clusters are sorted by (cluster, document); a batch is a run of whole clusters.

    One process does it all, in time that is linear in the pairs but for sorting. Memory, which `memory_mib` does not bound: 48
    bytes a document that has a similar one, and 40 a pair of the largest range of pairs.
    """

    name = "cluster"
    unit = "pairs"
    """Each is read twice."""

    def __init__(self, plan: Plan, parts: DocumentParts, neighbours: Neighbours) -> None:
        config = plan.config.dedupe
        self._root = parts.root
        self._neighbours = neighbours
        self.batch = max(1, min(BATCH, (config.memory_mib << 19) // (4 * config.permutations)))
        """Documents of a batch: half of `memory_mib` holds their signatures."""

    def items(self) -> list[Item]:
        """The whole, in one."""
        return [Item("all", 2 * sum(map(len, self._neighbours.edges())))]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write the members and the places where they are cut."""
        documents = self._documents(advance)
        roots = self._roots(documents, advance)
        sizes = np.bincount(roots)
        sizes = sizes[sizes > 0]
        order = np.argsort(roots, kind="stable")  # documents ascend, and go on doing so within a cluster
        blocks = (order[start : start + _BLOCK] for start in range(0, len(order), _BLOCK))
        members = (table_of(MEMBER, cluster=roots[places], document=documents[places]) for places in blocks)
        write_blocks(outputs.path(array_file(self, "members")), MEMBER, (), members)
        write_array(outputs.path(array_file(self, "cuts")), self._cuts(np.cumsum(sizes)))
        return {"documents_out": len(documents), "clusters": len(sizes), "largest": int(sizes.max(initial=0))}

    def batches(self) -> list[tuple[int, int]]:
        """Return where each batch begins and ends among the members."""
        return list(pairwise(np.load(self._root / array_file(self, "cuts")).tolist()))

    def members(self, start: int, stop: int) -> np.ndarray:
        """Return some of the members, MEMBER."""
        return np.array(mapped(self._root / array_file(self, "members"))[start:stop])

    def _documents(self, advance: Advance) -> np.ndarray:
        """Documents that have a similar one, ascending."""
        documents = np.empty(0, np.int64)
        waiting: list[np.ndarray] = []
        for edges in self._neighbours.edges():
            waiting.append(distinct(edges["document"], edges["kept"]))
            if sum(map(len, waiting)) > len(documents):  # seldom enough for the whole to stay linear but for sorting
                documents, waiting = distinct(documents, *waiting), []
            advance(len(edges))
        return distinct(documents, *waiting)

    def _roots(self, documents: np.ndarray, advance: Advance) -> np.ndarray:
        """The place among them of the smallest one of each document's cluster."""
        parents = np.arange(len(documents))
        for edges in self._neighbours.edges():
            join(parents, np.searchsorted(documents, edges["document"]), np.searchsorted(documents, edges["kept"]))
            advance(len(edges))
        flatten(parents)
        return parents

    def _cuts(self, ends: np.ndarray) -> np.ndarray:
        """As many clusters together as a batch takes, and one at least; `ends` is where each cluster ends."""
        cuts = [0]
        while len(ends) and cuts[-1] < ends[-1]:
            last = max(
                np.searchsorted(ends, cuts[-1] + self.batch, side="right") - 1,
                np.searchsorted(ends, cuts[-1], side="right"),
            )
            cuts.append(int(ends[last]))
        return np.array(cuts, dtype=np.int64)
