"""Stage `minhash`: signatures of the documents that near-duplicates are looked for among, and their bands."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.arrays import mapped, write_array, write_blocks
from data_prep.dedupe.kernels import band_keys
from data_prep.dedupe.records import Copies, between
from data_prep.dedupe.signatures import Signer
from data_prep.job import WORK, Item, Outputs
from data_prep.plan import Plan
from data_prep.progress import BYTES, Advance
from data_prep.text.parts import Part, Parts

_BLOCK = 1024
"""Signatures that are copied at a time."""
BAND = np.dtype([("key", "<u8"), ("document", "<i8")])
"""The hash of a band's rows, and whose they are."""


class MinHash:
    """Reads the texts of the parts whose corpus drops near copies, and signs the first document of each text among them.

    That one may be a copy of a document of an `exact` corpus, which has no signature: documents similar to it are dropped
    for it, and it for the other.

    A part leaves its signatures [documents, permutations], their documents in ascending order, and [bands, documents]
    BAND records, each band sorted by (key, document); a document without words has no signature. In memory are
    8 bytes a document and band, and about nine a character of the longest document.
    """

    name = "minhash"
    unit = BYTES

    def __init__(self, plan: Plan, parts: Parts, exact: Copies) -> None:
        self._config = plan.config.dedupe
        self._parts = parts
        self._exact = exact
        self._is_near = np.array([plan.corpus(part.corpus).dedupe == "near" for part in parts], dtype=bool)
        self.near = [part for part, is_near in zip(parts, self._is_near, strict=True) if is_near]

    def items(self) -> list[Item]:
        """The parts."""
        return [Item(part.name, part.size) for part in self.near]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Sign a part."""
        part = self._parts.named(item.name)
        signer = Signer(self._config.permutations, self._config.ngram)
        documents = [np.empty(0, np.int64)]
        keys = [np.empty((self._config.bands, 0), np.uint64)]

        def signed() -> Iterator[np.ndarray]:
            for numbers, texts in self._originals(part, advance):
                signatures, worded = signer(texts)
                signatures = signatures[worded]
                documents.append(numbers[worded])
                keys.append(band_keys(signatures, self._config.bands))
                yield signatures

        write_blocks(outputs.path(self._file(part, "signatures")), np.dtype("<u4"), (self._config.permutations,), signed())
        numbers = np.concatenate(documents)
        write_array(outputs.path(self._file(part, "documents")), numbers)
        bands = (_band(band, numbers)[None] for band in np.concatenate(keys, axis=1))
        write_blocks(outputs.path(self._file(part, "bands")), BAND, (len(numbers),), bands)
        return {"documents_in": part.documents, "documents_out": len(numbers)}

    def band(self, part: Part, band: int, start: int, stop: int) -> np.ndarray:
        """Return a part's records, BAND, of one band with keys in [start, stop)."""
        return between(self._mapped(part, "bands")[band], "key", start, stop)

    def signatures(self, documents: np.ndarray) -> np.ndarray:
        """Return the documents' signatures, uint32 [documents, permutations]; each must have one."""
        found = np.empty((len(documents), self._config.permutations), dtype=np.uint32)
        order = np.argsort(documents)  # files are read one after the other, and forwards
        holding = self._parts.holding(documents[order])
        begins = np.flatnonzero(np.diff(holding, prepend=-1))
        for places in np.split(order, begins[1:]) if len(order) else []:
            part = self._parts.all[int(self._parts.holding(documents[places[:1]])[0])]
            rows = np.searchsorted(self._mapped(part, "documents"), documents[places])
            signatures = self._mapped(part, "signatures")
            for start in range(0, len(rows), _BLOCK):  # the copy that numpy makes on the way stays small
                found[places[start : start + _BLOCK]] = signatures[rows[start : start + _BLOCK]]
        return found

    def _originals(self, part: Part, advance: Advance) -> Iterator[tuple[np.ndarray, list[str]]]:
        """(numbers, texts) of documents that equal no earlier one of these parts, about a megabyte at a time."""
        records = self._exact.between(part.first, part.first + part.documents)
        copies = records["document"][self._is_near[self._parts.holding(records["kept"])]]
        for row, texts in self._parts.texts(part):
            numbers = np.arange(part.first + row, part.first + row + len(texts), dtype=np.int64)
            original = np.isin(numbers, copies, invert=True)
            if original.any():
                yield numbers[original], [text for text, wanted in zip(texts, original, strict=True) if wanted]
            advance(part.size * len(texts) // part.documents)

    def _mapped(self, part: Part, kind: str) -> np.ndarray:
        return mapped(self._parts.root / self._file(part, kind))

    def _file(self, part: Part, kind: str) -> str:
        return f"{WORK}/{self.name}/{part.name}.{kind}.npy"


def _band(keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """A band's records; documents ascend, and stable sorting leaves them so within a key."""
    records = np.empty(len(keys), dtype=BAND)
    order = np.argsort(keys, kind="stable")
    records["key"], records["document"] = keys[order], documents[order]
    return records
