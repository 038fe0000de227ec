"""Parquet: a column of text, read by row groups."""

import os
from collections.abc import Iterator

import pyarrow
import pyarrow.parquet

from data_prep.settings import CorpusConfig
from data_prep.storage.stores import Remote, Source, raw_file, source_of
from data_prep.text.columns import Columns, find_columns
from data_prep.text.document import Document
from data_prep.text.input_ranges import InputRange
from data_prep.text.rejects import BadRecords, DamagedError, is_the_systems
from pipeline.common.progress import Advance

_BATCH_ROWS = 128
_BUFFER = 1 << 20
_REMOTE_BUFFER = 4 << 20
"""Of a store's file, where each is a request."""


def ranges_of_parquet(path: Source, corpus: CorpusConfig, range_bytes: int) -> list[InputRange]:
    """Return the ranges in which a file is read: row groups, together up to `range_bytes`.

    Raises DamagedError where there are no such columns (`find_columns`).
    """
    file, _ = _opened(path, corpus)
    with file:
        ranges: list[InputRange] = []
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).total_byte_size
            if ranges and ranges[-1].size + size <= range_bytes:
                ranges[-1].stop, ranges[-1].size = group + 1, ranges[-1].size + size
            else:
                ranges.append(InputRange(path=str(path), start=group, stop=group + 1, size=size))
        return ranges


def read_parquet(input_range: InputRange, corpus: CorpusConfig, bad: BadRecords, advance: Advance) -> Iterator[Document]:
    """Yield the documents of the range's row groups."""
    file, columns = _opened(source_of(input_range.path), corpus)
    with file:
        groups = range(input_range.start, input_range.stop)
        row = sum(file.metadata.row_group(group).num_rows for group in range(input_range.start))
        rows = sum(file.metadata.row_group(group).num_rows for group in groups)
        # Of a column of structs only the field is read.
        names = [".".join(place) for place in columns.places]
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=names, use_threads=False):
            yield from columns.documents(batch, input_range.path, row, bad)
            row += batch.num_rows
            advance(input_range.size * batch.num_rows // rows)


def _opened(path: Source, corpus: CorpusConfig) -> tuple[pyarrow.parquet.ParquetFile, Columns]:
    try:
        # Buffered, and nothing fetched ahead: else a row group's column is held whole, compressed (87 MB of it: 107 MB
        # of memory, and 21 so, where a page is 1 MB).
        remote = isinstance(path, Remote)
        source = raw_file(path, lambda _: None) if remote else path
        buffered = _REMOTE_BUFFER if remote else _BUFFER
        file = pyarrow.parquet.ParquetFile(source, buffer_size=buffered, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            # pyarrow leaves out which file it was.
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        if is_the_systems(error):
            raise
        raise DamagedError(f"not readable as parquet: {' '.join(str(error).split())}") from None
    try:
        return file, find_columns(file.schema_arrow, corpus)
    except DamagedError:
        file.close()
        raise
