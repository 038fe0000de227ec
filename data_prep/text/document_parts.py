"""Parts: bounded runs of cleaned documents on disk, numbered over the whole preparation.

NAME.parquet holds the documents: the text, where it stands, the document's columns as JSON, and of a dropped one the reason.
NAME.exact.npy, where the corpus is deduplicated, the
128-bit hashes sorted, so that every range of hashes is a slice of it; NAME.heldout.npy one flag a document.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.jobs.job import WORK, Outputs
from data_prep.storage.arrays import mapped, write_array
from data_prep.text.document import Document
from data_prep.text.values import as_json

EXACT = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4")])
"""A document's 128-bit hash and its row in the part."""

FOLDER = f"{WORK}/clean"

_SCHEMA = pa.schema([(name, pa.large_string()) for name in ("text", "where", "columns", "reason")])
_ROW_GROUP_BYTES = 1 << 20


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
    """Of text."""
    folder: str = FOLDER
    """Where its documents lie, below the job's folder; its hashes and flags lie in FOLDER."""

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
        with pq.ParquetFile(self.path(part)) as file:
            for group, row, _ in _groups(file):
                yield row, _texts(file, group).to_pylist()

    def chosen(self, part: DocumentPart, wanted: np.ndarray) -> Iterator[tuple[int, str]]:
        """Yield (row, text) of the rows that `wanted` (bool, one a document) names; the rest is not even read."""
        with pq.ParquetFile(self.path(part)) as file:
            for group, row, places in _groups(file, wanted):
                texts = _texts(file, group)
                yield from ((row + place, texts[place].as_py()) for place in places)

    def document(self, number: int) -> Document:
        """Return one document."""
        part = self.part(number)
        ((_, document),) = read_documents(self.path(part), np.arange(part.documents) == number - part.first)
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

    def path(self, part: DocumentPart) -> Path:
        """Return the file of a part's documents."""
        return self.root / documents_file(part.folder, part.name)


def read_documents(path: Path, wanted: np.ndarray | None = None) -> Iterator[tuple[int, Document]]:
    """Yield (row, document) of all rows, or of those that `wanted` (bool, one a document) names."""
    with pq.ParquetFile(path) as file:
        for group, row, places in _groups(file, wanted):
            table = file.read_row_group(group, use_threads=False)
            # A file that an earlier version wrote has nothing but the text.
            for place, found in zip(places, table.take(places).to_pylist(), strict=True):
                columns = found.get("columns")
                values = {} if columns is None else json.loads(columns)
                yield row + place, Document(found["text"], found.get("where", ""), values, found.get("reason"))


def _texts(file: pq.ParquetFile, group: int) -> pa.ChunkedArray:
    return file.read_row_group(group, columns=["text"], use_threads=False).column(0)


def _groups(file: pq.ParquetFile, wanted: np.ndarray | None = None) -> Iterator[tuple[int, int, list[int]]]:
    """(row group, its first row, the places of wanted rows in it) of the groups that have any."""
    row = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        places = list(range(rows)) if wanted is None else np.flatnonzero(wanted[row : row + rows]).tolist()
        if places:
            yield group, row, places
        row += rows


class DocumentWriter:
    """Write documents, about a megabyte of text a row group."""

    def __init__(self, path: Path) -> None:
        self._waiting: list[tuple[str, str, str | None, str | None]] = []
        self._waiting_bytes = 0
        # Texts are unique and never looked up by value: a dictionary and statistics would only take space.
        self._writer = pq.ParquetWriter(path, _SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False)

    def add(self, document: Document, size: int) -> None:
        """Append a document whose text is `size` bytes."""
        columns = json.dumps(as_json(document.columns)) if document.columns else None
        self._waiting.append((document.text, document.where, columns, document.dropped))
        self._waiting_bytes += size + len(columns or "")
        if self._waiting_bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            columns = [pa.array(column, pa.large_string()) for column in zip(*self._waiting, strict=True)]
            self._writer.write_table(pa.table(columns, schema=_SCHEMA))
        self._waiting, self._waiting_bytes = [], 0

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        self._writer.close()


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
