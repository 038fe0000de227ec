"""Stage `filter`: what becomes of every document."""

from typing import Any

import numpy as np

from data_prep.arrays import write_array
from data_prep.dedupe.records import Copies
from data_prep.job import WORK, Item, Outputs
from data_prep.plan import Plan
from data_prep.progress import Advance
from data_prep.text.parts import Part, Parts

KEPT_TRAIN, KEPT_HELDOUT, EXACT_COPY, NEAR_COPY, REPEATED_TEXT = range(5)
REASONS = {EXACT_COPY: "exact copy", NEAR_COPY: "near copy", REPEATED_TEXT: "repeated text"}
"""Why a document is dropped, by what becomes of it."""


class Filter:
    """Writes one byte a document: KEPT_TRAIN, KEPT_HELDOUT, EXACT_COPY or NEAR_COPY."""

    name = "filter"
    unit = "documents"

    def __init__(self, plan: Plan, parts: Parts, exact: Copies, near: Copies) -> None:
        self._plan = plan
        self._parts = parts
        self._exact = exact
        self._near = near

    def items(self) -> list[Item]:
        """The parts."""
        return [Item(part.name, part.documents) for part in self._parts]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write a part's fates."""
        part = self._parts.named(item.name)
        fates = np.where(self._parts.heldout(part), np.uint8(KEPT_HELDOUT), np.uint8(KEPT_TRAIN))
        stop = part.first + part.documents
        copies = self._exact.between(part.first, stop)
        if self._plan.corpus(part.corpus).dedupe == "exact":
            copies = copies[~self._near.have(copies["kept"])]
        fates[self._near.between(part.first, stop)["document"] - part.first] = NEAR_COPY
        # The first of a near corpus may be both: it equals one of an exact corpus, which stays whatever else is similar.
        fates[copies["document"] - part.first] = EXACT_COPY
        write_array(outputs.path(self._file(part)), fates)
        exact, near = int((fates == EXACT_COPY).sum()), int((fates == NEAR_COPY).sum())
        return {
            "documents_in": part.documents,
            "documents_out": part.documents - exact - near,
            "exact": exact,
            "near": near,
        }

    def fates(self, part: Part) -> np.ndarray:
        """Return the part's fates, uint8."""
        return np.load(self._parts.root / self._file(part))

    def _file(self, part: Part) -> str:
        return f"{WORK}/{self.name}/{part.name}.npy"
