"""Documents out of inputs: which module reads what, and what becomes of files that cannot be read."""

import gzip
import lzma
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow
import zstandard

from data_prep.settings import CorpusConfig
from data_prep.storage.stores import Remote, Source, raw_file, read_fully, size_of, source_of
from data_prep.text.condition import Condition, ConditionError
from data_prep.text.document import Document
from data_prep.text.frames import cuts
from data_prep.text.input_ranges import InputRange
from data_prep.text.jsonl import is_whole, read_jsonl, read_whole
from data_prep.text.kinds import Kind, check_content, kind_of
from data_prep.text.lines import COMPRESSION_RATIO
from data_prep.text.parquet import ranges_of_parquet, read_parquet
from data_prep.text.python_docs import read_python_docs
from data_prep.text.rejects import BAD_FILE, WHERE, BadRecords, DamagedError, Rejects, is_the_systems
from data_prep.text.saved_datasets import read_dataset
from data_prep.text.txt import read_txt
from pipeline.common.errors import UserError
from pipeline.common.progress import Advance

_DAMAGE = (
    DamagedError,
    zstandard.ZstdError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    pyarrow.ArrowException,
    OSError,
)
"""What the readers raise for a damaged file; pyarrow and bz2 have plain OSErrors too."""


def ranges_of_file(path: Source, corpus: CorpusConfig, range_bytes: int) -> list[InputRange]:
    """Return the ranges in which a file is read.

    Raises UserError for an unknown type, and, where bad files are refused, for an empty or unreadable file.
    """
    kind = kind_of(path)
    if kind.format == "txt" and corpus.read_columns:
        raise UserError(f"{path}: plain text has no {corpus.read_columns[0]!r}; leave `columns` and `where` out of this corpus")
    if isinstance(path, Path):
        return _ranges(path, path.stat().st_size, kind, corpus, range_bytes)
    size, _, fingerprint = path.draft()
    ranges = _ranges(path, size, kind, corpus, range_bytes)
    return [input_range.model_copy(update={"fingerprint": fingerprint}) for input_range in ranges]


def _ranges(path: Source, size: int, kind: Kind, corpus: CorpusConfig, range_bytes: int) -> list[InputRange]:
    try:
        if size == 0:
            raise DamagedError("the file is empty")
        check_content(path, kind)
        ranges = not isinstance(path, Remote) or path.gives_ranges
        if kind.format == "parquet":
            if not ranges:
                raise UserError(f"{path}: the server gives no parts of a file, and parquet is read by parts; download it")
            return ranges_of_parquet(path, corpus, range_bytes)
        ratio = 1 if kind.compression is None else COMPRESSION_RATIO
        if not ranges or size * ratio <= range_bytes or _is_whole(path, kind, corpus):
            starts = [0]
        elif kind.compression is None:
            starts = [*range(0, size, range_bytes)]
        else:
            starts = _cuts(path, size, kind.compression, range_bytes // ratio)
        return [
            InputRange(path=str(path), start=start, stop=stop, size=(stop - start) * ratio)
            for start, stop in pairwise([*starts, size])
        ]
    except DamagedError as error:
        if corpus.bad_files == "refuse":
            raise _refusal(path, error) from None
        return [InputRange(path=str(path), start=0, stop=0, size=0)]


def _is_whole(path: Source, kind: Kind, corpus: CorpusConfig) -> bool:
    """Whether a file is one JSON value, or one document."""
    try:
        return is_whole(str(path), corpus) if kind.format == "json" else kind.format == "txt" and corpus.txt_documents == "file"
    except _DAMAGE as error:
        if is_the_systems(error):
            raise
        # Refused when it is read.
        return True


def _cuts(path: Source, size: int, compression: str, step: int) -> list[int]:
    with raw_file(path, lambda _: None) as file:

        def read(place: int, count: int) -> bytes:
            file.seek(place)
            return read_fully(file, count)

        return cuts(read, size, compression, step, walks=isinstance(path, Path))


def read_range(
    input_range: InputRange, corpus: CorpusConfig, rejects: Rejects, advance: Advance = lambda _: None
) -> Iterator[Document]:
    """Yield a range's documents in order; `rejects` counts what is skipped, `advance` is called with what is read of its size.

    Memory is bounded by `max_characters`; parquet's, instead, by 128 rows and a page of the column, for its library
    gives no part of a row. Raises UserError, naming file and record, where a file is gone, is bad and bad files are
    refused, or has too many bad records; the system's errors are raised as they are, whatever `bad_files` is.
    """
    source = source_of(input_range.path)
    try:
        if isinstance(source, Remote):
            source.check(input_range.fingerprint)
        yield from _read(input_range, corpus, rejects, advance)
        if isinstance(source, Remote):
            # What was read is known to be of one file only now.
            source.check(input_range.fingerprint)
    except FileNotFoundError:
        raise UserError(f"{input_range.path}: is no longer there; put it back") from None
    except _DAMAGE as error:
        if is_the_systems(error):
            raise
        reason = str(error) if isinstance(error, DamagedError) else f"the file is damaged ({' '.join(str(error).split())})"
        if corpus.bad_files == "refuse":
            raise _refusal(input_range.path, reason) from None
        rejects.add(BAD_FILE, f"{input_range.path}: {reason}")


def _refusal(path: Source | str, reason: object) -> UserError:
    return UserError(f"{path}: {reason}; correct it, or set bad_files: skip")


def _read(input_range: InputRange, corpus: CorpusConfig, rejects: Rejects, advance: Advance) -> Iterator[Document]:
    if input_range.path == corpus.corpus:
        return (Document(text, input_range.path) for text in read_python_docs(rejects.counts, advance))
    bad = BadRecords(input_range.path, corpus.max_bad_records, rejects)
    reader = read_dataset if input_range.path == corpus.dataset else _of_file
    documents = reader(input_range, corpus, bad, advance)
    return documents if corpus.where is None else _judged(Condition(corpus.where), documents, bad)


def _judged(condition: Condition, documents: Iterator[Document], bad: BadRecords) -> Iterator[Document]:
    """The documents, those that do not fulfil the condition marked as dropped."""
    for document in documents:
        try:
            fulfils = condition(document.columns)
        except ConditionError as error:
            bad.add(document.where.removeprefix(f"{bad.path}: "), f"where: {error}")
            continue
        document.dropped = None if fulfils else WHERE
        yield document


def _of_file(input_range: InputRange, corpus: CorpusConfig, bad: BadRecords, advance: Advance) -> Iterator[Document]:
    path = source_of(input_range.path)
    if size_of(path) == 0:
        raise DamagedError("the file is empty")
    kind = kind_of(path)
    format: str = kind.format
    if input_range.start == 0:
        check_content(path, kind)
        if format == "json" and is_whole(input_range.path, corpus):
            format = "whole"
    readers = {"txt": read_txt, "jsonl": read_jsonl, "json": read_jsonl, "whole": read_whole, "parquet": read_parquet}
    return readers[format](input_range, corpus, bad, advance)
