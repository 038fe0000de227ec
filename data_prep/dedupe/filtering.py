"""Stage `filter`: what becomes of every document."""

from typing import Any

import numpy as np

from data_prep.dedupe.groups import grouped
from data_prep.dedupe.records import Copies
from data_prep.jobs.job import Item, Outputs, array_file
from data_prep.manifest import HELDOUT, TRAIN
from data_prep.plans.plan import Plan
from data_prep.storage.arrays import mapped, write_array
from data_prep.text.document_parts import DocumentPart, DocumentParts
from data_prep.text.rejects import EXACT_DUPLICATE, NEAR_DUPLICATE, REPEATED
from pipeline.common.progress import Advance

BYTES_PER_DOCUMENT = 96
"""What a document takes at most: its decision and marks (4), and its records of exact and near copies, read and sorted (92)."""
KEPT_TRAIN, KEPT_HELDOUT, EXACT_COPY, NEAR_COPY, REPEATED_TEXT, REFINED = range(6)
SPLIT_OF = {KEPT_TRAIN: TRAIN, KEPT_HELDOUT: HELDOUT}
REASONS = {EXACT_COPY: EXACT_DUPLICATE, NEAR_COPY: NEAR_DUPLICATE, REPEATED_TEXT: REPEATED}
"""Why a document is dropped, by what becomes of it; of a REFINED one its step says why."""


class Filter:
    """Writes one byte a document: KEPT_TRAIN, KEPT_HELDOUT, EXACT_COPY or NEAR_COPY."""

    name = "filter"
    unit = "documents"

    def __init__(self, plan: Plan, parts: DocumentParts, exact: Copies, near: Copies) -> None:
        self._parts = parts
        self._exact = exact
        self._near = near
        self._exact_only = {corpus.name for corpus in plan.config.corpora if corpus.dedupe == "exact"}
        most = (plan.config.dedupe.memory_mib << 20) // BYTES_PER_DOCUMENT
        self._groups = {group.name: group for group in grouped(parts.all, most)}
        self._group_of = {part.name: group for group in self._groups.values() for part in group.parts}

    def items(self) -> list[Item]:
        """Groups of parts."""
        return [Item(group.name, group.documents) for group in self._groups.values()]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write the decisions of a group's documents."""
        group = self._groups[item.name]
        heldout = np.concatenate([self._parts.heldout(part) for part in group.parts])
        decisions = np.where(heldout, np.uint8(KEPT_HELDOUT), np.uint8(KEPT_TRAIN))
        copies = self._exact.between(group.first, group.stop)
        exact_only = np.repeat(
            [part.corpus in self._exact_only for part in group.parts], [part.documents for part in group.parts]
        )
        # An exact corpus loses no text to a near copy.
        stays = np.zeros(len(copies), dtype=bool)
        asked = exact_only[copies["document"] - group.first]
        stays[asked] = self._near.have(copies["kept"][asked])
        decisions[self._near.between(group.first, group.stop)["document"] - group.first] = NEAR_COPY
        # The first of a near corpus may be both: it equals one of an exact corpus, which stays even where others are similar.
        decisions[copies["document"][~stays] - group.first] = EXACT_COPY
        write_array(outputs.path(array_file(self, group.name)), decisions)
        exact, near = int((decisions == EXACT_COPY).sum()), int((decisions == NEAR_COPY).sum())
        return {"documents_in": group.documents, "documents_out": group.documents - exact - near, "exact": exact, "near": near}

    def decisions(self, part: DocumentPart) -> np.ndarray:
        """Return the part's decisions, uint8."""
        group = self._group_of[part.name]
        start = part.first - group.first
        return np.array(mapped(self._parts.root / array_file(self, group.name))[start : start + part.documents])
