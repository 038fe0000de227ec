"""Documents in Parquet, as stages hand them on.

Columns: the text, where it stands, the document's columns as JSON, and of a dropped one the reason.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.text.document import Document
from data_prep.text.values import as_json

_SCHEMA = pa.schema([(name, pa.large_string()) for name in ("text", "where", "columns", "reason")])
_ROW_GROUP_BYTES = 1 << 20


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


def read_texts(path: Path) -> Iterator[pa.ChunkedArray]:
    """Yield the texts of a row group at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield _texts(file, group)


def read_chosen_texts(path: Path, wanted: np.ndarray) -> Iterator[tuple[int, str]]:
    """Yield (row, text) of the rows that `wanted` (bool, one a document) names; the rest is not even read."""
    with pq.ParquetFile(path) as file:
        for group, row, places in _groups(file, wanted):
            texts = _texts(file, group)
            yield from ((row + place, texts[place].as_py()) for place in places)


def read_documents(path: Path, wanted: np.ndarray | None = None) -> Iterator[tuple[int, Document]]:
    """Yield (row, document) of all rows, or of those that `wanted` (bool, one a document) names."""
    with pq.ParquetFile(path) as file:
        wanted = np.ones(file.metadata.num_rows, dtype=bool) if wanted is None else wanted
        for group, row, places in _groups(file, wanted):
            table = file.read_row_group(group, use_threads=False)
            # A file that an earlier version wrote has nothing but the text.
            for place, found in zip(places, table.take(places).to_pylist(), strict=True):
                columns = found.get("columns")
                values = {} if columns is None else json.loads(columns)
                yield row + place, Document(found["text"], found.get("where", ""), values, found.get("reason"))


def _texts(file: pq.ParquetFile, group: int) -> pa.ChunkedArray:
    return file.read_row_group(group, columns=["text"], use_threads=False).column(0)


def _groups(file: pq.ParquetFile, wanted: np.ndarray) -> Iterator[tuple[int, int, list[int]]]:
    """(row group, its first row, the places of wanted rows in it) of the groups that have any."""
    row = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        places = np.flatnonzero(wanted[row : row + rows]).tolist()
        if places:
            yield group, row, places
        row += rows
