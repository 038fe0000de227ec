"""Documents out of inputs: which module reads what, and what becomes of files that cannot be read."""

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import zstandard

from data_prep.settings import CorpusConfig
from data_prep.storage.stores import Remote, Source, raw_file, size_of, source_of
from data_prep.text.condition import Condition, ConditionError
from data_prep.text.document import Document
from data_prep.text.frames import cuts
from data_prep.text.jsonl import is_whole, read_jsonl, read_whole
from data_prep.text.kinds import Kind, check_content, kind_of
from data_prep.text.lines import COMPRESSION_RATIO
from data_prep.text.parquet import pieces_of_parquet, read_parquet
from data_prep.text.pieces import Piece, byte_ranges
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


def pieces_of_file(path: Source, corpus: CorpusConfig, piece_bytes: int) -> list[Piece]:
    """Return the pieces in which a file is read.

    Raises UserError for an unknown type, and, where bad files are refused, for an empty or unreadable file.
    """
    kind = kind_of(path)
    if kind.format == "txt" and corpus.read_columns:
        raise UserError(f"{path}: plain text has no {corpus.read_columns[0]!r}; leave `columns` and `where` out of this corpus")
    if isinstance(path, Path):
        return _pieces(path, path.stat().st_size, kind, corpus, piece_bytes)
    size, _, fingerprint = path.draft()
    pieces = _pieces(path, size, kind, corpus, piece_bytes)
    return [piece.model_copy(update={"fingerprint": fingerprint}) for piece in pieces]


def _pieces(path: Source, size: int, kind: Kind, corpus: CorpusConfig, piece_bytes: int) -> list[Piece]:
    try:
        if size == 0:
            raise DamagedError("the file is empty")
        check_content(path, kind)
        ranges = not isinstance(path, Remote) or path.gives_ranges
        if kind.format == "parquet":
            if not ranges:
                raise UserError(f"{path}: the server gives no parts of a file, and parquet is read by parts; download it")
            return pieces_of_parquet(path, corpus, piece_bytes)
        if kind.compression is not None:
            cut = ranges and size * COMPRESSION_RATIO > piece_bytes and not _is_whole(path, kind, corpus)
            starts = _cuts(path, size, kind.compression, piece_bytes // COMPRESSION_RATIO) if cut else [0]
            return [
                Piece(path=str(path), start=start, stop=stop, size=(stop - start) * COMPRESSION_RATIO)
                for start, stop in zip(starts, [*starts[1:], size], strict=True)
            ]
        return byte_ranges(str(path), size, piece_bytes if ranges and not _is_whole(path, kind, corpus) else size)
    except DamagedError as error:
        if corpus.bad_files == "refuse":
            raise _refusal(path, error) from None
        return [Piece(path=str(path), start=0, stop=0, size=0)]


def _is_whole(path: Source, kind: Kind, corpus: CorpusConfig) -> bool:
    """Whether a file is one JSON value, or one document."""
    try:
        return is_whole(str(path), corpus) if kind.format == "json" else kind.format == "txt" and corpus.txt_documents == "file"
    except _DAMAGE as error:
        if is_the_systems(error):
            raise
        # Told when it is read.
        return True


def _cuts(path: Source, size: int, compression: str, step: int) -> list[int]:
    with raw_file(path, lambda _: None) as file:

        def read(place: int, count: int) -> bytes:
            file.seek(place)
            content = bytearray()
            while len(content) < count and (chunk := file.read(count - len(content))):
                content += chunk
            return bytes(content)

        return cuts(read, size, compression, step, walks=isinstance(path, Path))


def read_piece(piece: Piece, corpus: CorpusConfig, rejects: Rejects, advance: Advance = lambda _: None) -> Iterator[Document]:
    """Yield a piece's documents in order; what is skipped is counted in `rejects`, `advance` told what is read of its size.

    Memory is bounded by `max_characters`; parquet's, instead, by 128 rows and a page of the column, for its library
    gives no part of a row. Raises UserError, naming file and record, where a file is gone, is bad and bad files are
    refused, or has too many bad records; the system's errors as they come, whatever `bad_files` says.
    """
    source = source_of(piece.path)
    try:
        if isinstance(source, Remote):
            source.check(piece.fingerprint)
        yield from _read(piece, corpus, rejects, advance)
        if isinstance(source, Remote):
            # What was read is known to be of one file only now.
            source.check(piece.fingerprint)
    except FileNotFoundError:
        raise UserError(f"{piece.path}: no such file any more; put it back") from None
    except _DAMAGE as error:
        if is_the_systems(error):
            raise
        told = str(error) if isinstance(error, DamagedError) else f"the file is damaged ({' '.join(str(error).split())})"
        if corpus.bad_files == "refuse":
            raise _refusal(piece.path, told) from None
        rejects.add(BAD_FILE, f"{piece.path}: {told}")


def _refusal(path: Source | str, told: object) -> UserError:
    return UserError(f"{path}: {told}; mend it, or set bad_files: skip")


def _read(piece: Piece, corpus: CorpusConfig, rejects: Rejects, advance: Advance) -> Iterator[Document]:
    if piece.path == corpus.corpus:
        return (Document(text, piece.path) for text in read_python_docs(rejects.counts, advance))
    bad = BadRecords(piece.path, corpus.max_bad_records, rejects)
    reader = read_dataset if piece.path == corpus.dataset else _of_file
    documents = reader(piece, corpus, bad, advance)
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


def _of_file(piece: Piece, corpus: CorpusConfig, bad: BadRecords, advance: Advance) -> Iterator[Document]:
    path = source_of(piece.path)
    if size_of(path) == 0:
        raise DamagedError("the file is empty")
    kind = kind_of(path)
    format: str = kind.format
    if piece.start == 0:
        check_content(path, kind)
        if format == "json" and is_whole(piece.path, corpus):
            format = "whole"
    readers = {"txt": read_txt, "jsonl": read_jsonl, "json": read_jsonl, "whole": read_whole, "parquet": read_parquet}
    return readers[format](piece, corpus, bad, advance)
