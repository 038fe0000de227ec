"""Documents out of inputs: which module reads what, and what becomes of files that cannot be read."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import zstandard

from data_prep.errors import UserError
from data_prep.settings import CorpusConfig
from data_prep.text.jsonl import read_jsonl
from data_prep.text.lines import COMPRESSED
from data_prep.text.parquet import pieces_of_parquet, read_parquet
from data_prep.text.pieces import Document, Piece, byte_ranges
from data_prep.text.python_docs import read_python_docs
from data_prep.text.rejects import BAD_FILE, BadRecords, DamagedError, Rejects, is_the_systems
from data_prep.text.saved_datasets import read_dataset
from data_prep.text.txt import read_txt

_COMPRESSION_RATIO = 4
"""About how much text a compressed byte holds; only the sharing among processes rests on it."""
_DAMAGE = (DamagedError, zstandard.ZstdError, gzip.BadGzipFile, zlib.error, EOFError, pyarrow.ArrowException, OSError)
"""What the readers raise for a damaged file; pyarrow has plain OSErrors too."""


def pieces_of_file(path: Path, corpus: CorpusConfig, piece_bytes: int) -> list[Piece]:
    """Return the pieces in which a file is read.

    Raises UserError for an unknown type, and, where bad files are refused, for an empty or unreadable file.
    """
    size = path.stat().st_size
    try:
        if size == 0:
            raise DamagedError("the file is empty")
        if path.name.endswith(".parquet"):
            return pieces_of_parquet(path, corpus.text_field, piece_bytes)
        if path.name.endswith(COMPRESSED):
            return [Piece(path=str(path), start=0, stop=size, size=size * _COMPRESSION_RATIO)]
        if path.name.endswith((".jsonl", ".txt")):
            whole = path.name.endswith(".txt") and corpus.txt_documents == "file"
            return byte_ranges(str(path), size, size if whole else piece_bytes)
    except DamagedError as error:
        if corpus.bad_files == "refuse":
            raise _refusal(path, error) from None
        return [Piece(path=str(path), start=0, stop=0, size=0)]
    raise UserError(f"{path}: unknown type of text file; .txt, .jsonl, .jsonl.gz, .jsonl.zst or .parquet would do")


def read_piece(piece: Piece, corpus: CorpusConfig, rejects: Rejects) -> Iterator[Document]:
    """Yield a piece's documents in order; what is skipped is counted in `rejects`.

    Memory is bounded by `max_characters`; parquet's, instead, by 128 rows and a page of the column, for its library
    gives no part of a row. Raises UserError, naming file and record, where a file is gone, is bad and bad files are
    refused, or has too many bad records; the system's errors as they come, whatever `bad_files` says.
    """
    try:
        yield from _read(piece, corpus, rejects)
    except FileNotFoundError:
        raise UserError(f"{piece.path}: no such file any more; put it back") from None
    except _DAMAGE as error:
        if is_the_systems(error):
            raise
        told = str(error) if isinstance(error, DamagedError) else f"the file is damaged ({' '.join(str(error).split())})"
        if corpus.bad_files == "refuse":
            raise _refusal(piece.path, told) from None
        rejects.add(BAD_FILE, f"{piece.path}: {told}")


def _refusal(path: Path | str, told: object) -> UserError:
    return UserError(f"{path}: {told}; mend it, or set bad_files: skip")


def _read(piece: Piece, corpus: CorpusConfig, rejects: Rejects) -> Iterator[Document]:
    if piece.path == corpus.corpus:
        return ((piece.path, text) for text in read_python_docs(rejects.counts))
    bad = BadRecords(piece.path, corpus.max_bad_records, rejects)
    if piece.path == corpus.dataset:
        return read_dataset(piece, corpus, bad)
    if Path(piece.path).stat().st_size == 0:
        raise DamagedError("the file is empty")
    if piece.path.endswith(".parquet"):
        return read_parquet(piece, corpus, bad)
    if piece.path.endswith(".txt"):
        return read_txt(piece, corpus, bad)
    return read_jsonl(piece, corpus, bad)
