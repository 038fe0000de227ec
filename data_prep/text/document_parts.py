"""Parts: bounded runs of cleaned documents on disk, numbered over the whole preparation.

NAME.parquet holds the documents (`document_files`); NAME.exact.npy, where the corpus is deduplicated, the
128-bit hashes sorted, so that every range of hashes is a slice of it; NAME.heldout.npy one flag a document.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.jobs.job import WORK, Outputs
from data_prep.storage.arrays import mapped, write_array
from data_prep.text.document import Document
from data_prep.text.document_files import DocumentWriter, read_chosen_texts, read_documents, read_texts

EXACT = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4")])
"""A document's 128-bit hash and its row in the part."""

FOLDER = f"{WORK}/clean"


@dataclass(frozen=True, slots=True)
class DocumentPart:
    """A part: `first` is the number of its first document among all documents, `index` its own among its corpus's parts."""

    name: str
    corpus: str
    index: int
    first: int
    documents: int
    characters: int
    bytes: int
    folder: str = FOLDER
    """Where its documents lie, below the job's folder; its hashes and flags lie in FOLDER."""

    @property
    def size(self) -> int:
        """Bytes of text."""
        return self.bytes

    @property
    def slice(self) -> str:
        """The name of the slice that it was cleaned from."""
        return self.name.rpartition("-")[0]


def documents_file(folder: str, name: str) -> str:
    """Return the name of the file of a part's documents, below the job's folder."""
    return f"{folder}/{name}.parquet"


class DocumentParts:
    """The parts of a preparation, in order, and their files."""

    def __init__(self, root: Path, parts: list[DocumentPart]) -> None:
        self.root = root
        self.all = parts
        self._named = {part.name: part for part in parts}
        self._firsts = np.array([part.first for part in parts], dtype=np.int64)

    def __iter__(self) -> Iterator[DocumentPart]:
        return iter(self.all)

    @property
    def documents(self) -> int:
        """Documents in all parts."""
        return sum(part.documents for part in self.all)

    def named(self, name: str) -> DocumentPart:
        """Return a part by name."""
        return self._named[name]

    def holding(self, documents: np.ndarray) -> np.ndarray:
        """Return the place in `all` of the part that holds each document."""
        return np.searchsorted(self._firsts, documents, side="right") - 1

    def texts(self, part: DocumentPart) -> Iterator[tuple[int, list[str]]]:
        """Yield (row of the first, texts) of about a megabyte at a time."""
        row = 0
        for texts in read_texts(self._path(part)):
            yield row, texts.to_pylist()
            row += len(texts)

    def chosen(self, part: DocumentPart, wanted: np.ndarray) -> Iterator[tuple[int, str]]:
        """Yield (row, text) of the rows that `wanted` (bool, one a document) names; the rest is not even read."""
        return read_chosen_texts(self._path(part), wanted)

    def read_documents(self, part: DocumentPart, wanted: np.ndarray | None = None) -> Iterator[tuple[int, Document]]:
        """Yield (row, document) of all rows, or of those that `wanted` (bool, one a document) names."""
        return read_documents(self._path(part), wanted)

    def document(self, number: int) -> Document:
        """Return one document."""
        part = self.part(number)
        ((_, document),) = self.read_documents(part, np.arange(part.documents) == number - part.first)
        return document

    def part(self, document: int) -> DocumentPart:
        """Return the part that holds a document."""
        return self.all[int(self.holding(np.array([document]))[0])]

    def exact(self, part: DocumentPart) -> np.ndarray:
        """Return the part's sorted hashes, EXACT, memory-mapped."""
        return mapped(self.root / FOLDER / f"{part.name}.exact.npy")

    def heldout(self, part: DocumentPart) -> np.ndarray:
        """Return whether each document is held out, bool."""
        return np.load(self.root / FOLDER / f"{part.name}.heldout.npy")

    def _path(self, part: DocumentPart) -> Path:
        return self.root / documents_file(part.folder, part.name)


class DocumentPartWriter:
    """Write one part, a document at a time."""

    def __init__(self, outputs: Outputs, name: str, *, hashed: bool) -> None:
        self.name = name
        self.bytes = 0
        self._outputs = outputs
        self._hashed = hashed
        self._hashes: list[tuple[int, int]] = []
        self._heldout: list[bool] = []
        self._characters = 0
        self._documents = DocumentWriter(outputs.path(documents_file(FOLDER, name)))

    def add(self, document: Document, size: int, digest: bytes, heldout: bool) -> None:
        """Append a document of `size` bytes with its 16-byte hash."""
        self._documents.add(document, size)
        self._characters += len(document.text)
        self.bytes += size
        self._hashes.append((int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")))
        self._heldout.append(heldout)

    def close(self) -> dict[str, Any]:
        """Finish the files; return what a DocumentPart is made from."""
        self._documents.close()
        if self._hashed:
            table = np.zeros(len(self._hashes), dtype=EXACT)
            hashes = np.array(self._hashes, dtype=np.uint64)
            table["high"], table["low"], table["row"] = hashes[:, 0], hashes[:, 1], np.arange(len(hashes))
            order = np.lexsort((table["row"], table["low"], table["high"]))
            write_array(self._outputs.path(f"{FOLDER}/{self.name}.exact.npy"), table[order])
        write_array(self._outputs.path(f"{FOLDER}/{self.name}.heldout.npy"), np.array(self._heldout, dtype=bool))
        return {
            "name": self.name, "documents": len(self._heldout), "characters": self._characters, "bytes": self.bytes
        }  # fmt: skip
