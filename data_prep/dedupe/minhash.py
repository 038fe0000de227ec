"""Stage `minhash`: signatures of the documents that near-duplicates are looked for among, and their bands."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_prep.dedupe.groups import Group, grouped
from data_prep.dedupe.kernels import band_keys, sign
from data_prep.dedupe.records import Copies, between, table_of
from data_prep.dedupe.shingles import code_points, word_table
from data_prep.jobs.job import Item, Outputs, array_file
from data_prep.plans.plan import Plan
from data_prep.storage.arrays import mapped, write_array, write_blocks
from data_prep.text.document_parts import DocumentParts
from pipeline.common.progress import BYTES, Advance

_KEY = 0x6D696E68617368
_BLOCK = 1024
"""Signatures that are copied at a time."""
BYTES_PER_KEY = 8
BYTES_PER_DOCUMENT = 56
"""What a document takes in addition to its keys while its group is signed: its number, twice (16), and while a band is sorted
the key again (8), the order (8, and 8 in sorting) and the record (16)."""
BAND = np.dtype([("key", "<u8"), ("document", "<i8")])
"""The hash of a band's rows, and whose they are."""


class Signer:
    """MinHash signatures (Broder 1997) of `permutations` rows over shingles of `ngram` words.

    Two texts agree in a row with a probability that is their Jaccard similarity.
    """

    def __init__(self, permutations: int, ngram: int) -> None:
        self._ngram = ngram
        # random_raw is the counter-based generator itself, the same in every version of numpy.
        raw = np.random.Philox(key=_KEY).random_raw(2 * permutations)
        self._factors = (raw[:permutations] >> 32).astype(np.uint32) | np.uint32(1)
        self._addends = (raw[permutations:] >> 32).astype(np.uint32)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return (signatures, uint32 [texts, permutations]; whether there are words, bool [texts]).

        Takes about nine bytes a character of memory.
        """
        codes, ends = code_points(texts)
        signatures = np.empty((len(texts), len(self._factors)), dtype=np.uint32)
        worded = np.empty(len(texts), dtype=np.bool_)
        sign(codes, ends, word_table(), self._ngram, self._factors, self._addends, signatures, worded)
        return signatures, worded


def rows_needed(permutations: int, threshold: float) -> int:
    """Return how many of `permutations` rows must agree for an estimated similarity of `threshold`."""
    return next(rows for rows in range(permutations + 1) if rows / permutations >= threshold)


class MinHash:
    """Reads the texts of the parts whose corpus drops near copies, and signs the first document of each text among them.

    That one may be a copy of a document of an `exact` corpus, which has no signature: documents similar to it are dropped
    for it, and it for the other.

    A group of parts leaves its signatures [documents, permutations], their documents in ascending order, and
    [bands, documents] BAND records, each band sorted by (key, document); a document without words has no signature.

    Memory: `memory_mib` for a group's bands, which is never less than a part: BYTES_PER_KEY a document and band, and
    BYTES_PER_DOCUMENT a document; and about nine a character of the longest document.
    """

    name = "minhash"
    unit = BYTES

    def __init__(self, plan: Plan, parts: DocumentParts, exact: Copies) -> None:
        self._config = plan.config.dedupe
        self._parts = parts
        self._exact = exact
        near = {corpus.name for corpus in plan.config.corpora if corpus.dedupe == "near"}
        self._is_near = np.array([part.corpus in near for part in parts], dtype=bool)
        most = (self._config.memory_mib << 20) // (BYTES_PER_KEY * self._config.bands + BYTES_PER_DOCUMENT)
        self.groups = grouped([part for part in parts if part.corpus in near], most)
        self._named = {group.name: group for group in self.groups}
        self._firsts = np.array([group.first for group in self.groups], dtype=np.int64)

    def items(self) -> list[Item]:
        """Groups of parts."""
        return [Item(group.name, group.bytes) for group in self.groups]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Sign a group's documents."""
        group = self._named[item.name]
        signer = Signer(self._config.permutations, self._config.ngram)
        documents = [np.empty(0, np.int64)]
        keys = [np.empty((self._config.bands, 0), np.uint64)]  # of each block

        def signed() -> Iterator[np.ndarray]:
            for numbers, texts in self._originals(group, advance):
                signatures, worded = signer(texts)
                signatures = signatures[worded]
                documents.append(numbers[worded])
                keys.append(band_keys(signatures, self._config.bands))
                yield signatures

        write_blocks(
            outputs.path(array_file(self, f"{group.name}.signatures")), np.dtype("<u4"), (self._config.permutations,), signed()
        )
        numbers = np.concatenate(documents)
        write_array(outputs.path(array_file(self, f"{group.name}.documents")), numbers)
        bands = (_band([block[band] for block in keys], numbers)[None] for band in range(self._config.bands))
        write_blocks(outputs.path(array_file(self, f"{group.name}.bands")), BAND, (len(numbers),), bands)
        return {"documents_in": group.documents, "documents_out": len(numbers)}

    def band(self, group: Group, band: int, start: int, stop: int) -> np.ndarray:
        """Return a group's records, BAND, of one band with keys in [start, stop)."""
        return between(self._mapped(group, "bands")[band], "key", start, stop)

    def signatures(self, documents: np.ndarray) -> np.ndarray:
        """Return the documents' signatures, uint32 [documents, permutations]; each must have one."""
        found = np.empty((len(documents), self._config.permutations), dtype=np.uint32)
        order = np.argsort(documents)  # files are read one after the other, and forwards
        holding = np.searchsorted(self._firsts, documents[order], side="right") - 1
        begins = np.flatnonzero(np.diff(holding, prepend=-1))
        for index, places in zip(
            holding[begins].tolist(), np.split(order, begins[1:]), strict=False
        ):  # of nothing, split makes one
            group = self.groups[index]
            rows = np.searchsorted(self._mapped(group, "documents"), documents[places])
            signatures = self._mapped(group, "signatures")
            for start in range(0, len(rows), _BLOCK):  # the copy that numpy makes on the way stays small
                found[places[start : start + _BLOCK]] = signatures[rows[start : start + _BLOCK]]
        return found

    def _originals(self, group: Group, advance: Advance) -> Iterator[tuple[np.ndarray, list[str]]]:
        """(numbers, texts) of documents that equal no earlier one of these parts, about a megabyte at a time."""
        records = self._exact.between(group.first, group.stop)
        copies = records["document"][self._is_near[self._parts.holding(records["kept"])]]
        for part in group.parts:
            for row, texts in self._parts.texts(part):
                numbers = np.arange(part.first + row, part.first + row + len(texts), dtype=np.int64)
                original = np.isin(numbers, copies, invert=True)
                if original.any():
                    yield numbers[original], [text for text, wanted in zip(texts, original, strict=True) if wanted]
                advance(part.bytes * len(texts) // part.documents)

    def _mapped(self, group: Group, kind: str) -> np.ndarray:
        return mapped(self._parts.root / array_file(self, f"{group.name}.{kind}"))


def _band(blocks: list[np.ndarray], documents: np.ndarray) -> np.ndarray:
    """A band's records, of its keys; documents ascend, and stable sorting leaves them so within a key."""
    keys = np.concatenate(blocks)
    order = np.argsort(keys, kind="stable")
    return table_of(BAND, key=keys[order], document=documents[order])
