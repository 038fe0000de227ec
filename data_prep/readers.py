"""Documents out of text files, one file type a function."""

import glob
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow
import pyarrow.parquet
import zstandard

from data_prep.config import TextConfig
from data_prep.errors import UserError

_PARQUET_BATCH_ROWS = 1024
_ZST_CHUNK = 1 << 20


def expand(patterns: list[str]) -> list[Path]:
    """Return the files that paths and globs name, in a fixed order; raises UserError where one names none."""
    files: list[Path] = []
    for pattern in patterns:
        found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
        found = [path for path in found if path.is_file()]
        if not found:
            raise UserError(f"{pattern}: no such file; name an existing text file or a glob that matches one")
        files.extend(path for path in found if path not in files)
    for path in files:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty; remove it from the list or give it text")
    return files


def read_documents(path: Path, config: TextConfig, dropped: Counter[str]) -> Iterator[str]:
    """Yield one file's documents in order; skipped lines are counted in `dropped`.

    Raises UserError for an unreadable or unknown file, naming file and line.
    """
    name = path.name
    try:
        if name.endswith(".txt"):
            yield from _read_txt(path, config.txt_documents)
        elif name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
            yield from _read_jsonl(path, config, dropped)
        elif name.endswith(".parquet"):
            yield from _read_parquet(path, config.text_field)
        else:
            raise UserError(f"{path}: unknown type of text file; .txt, .jsonl, .jsonl.gz, .jsonl.zst or .parquet would do")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start} of the part read)") from None
    except (zstandard.ZstdError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: the compressed file is damaged ({error}); fetch or compress it again") from None


def _read_txt(path: Path, separation: str) -> Iterator[str]:
    with open(path, encoding="utf-8") as file:
        if separation == "file":
            yield file.read()
            return
        paragraph: list[str] = []
        for line in file:
            if line.strip():
                paragraph.append(line)
            elif paragraph:
                yield "".join(paragraph)
                paragraph = []
        if paragraph:
            yield "".join(paragraph)


def _lines(path: Path) -> Iterator[bytes]:
    if path.name.endswith(".zst"):
        yield from _zst_lines(path)
        return
    with gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb") as file:
        yield from file


def _zst_lines(path: Path) -> Iterator[bytes]:
    # zstandard's stream reader takes a frame that breaks off for the end of the file; only the frame object tells.
    frame = zstandard.ZstdDecompressor().decompressobj()
    rest = b""
    with open(path, "rb") as file:
        while chunk := file.read(_ZST_CHUNK):
            while chunk:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                *lines, rest = (rest + frame.decompress(chunk)).split(b"\n")
                yield from lines
                chunk = frame.unused_data
    if not frame.eof:
        raise zstandard.ZstdError("it breaks off inside a frame")
    if rest:
        yield rest


def _read_jsonl(path: Path, config: TextConfig, dropped: Counter[str]) -> Iterator[str]:
    bad = 0
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
            text = record.get(config.text_field) if isinstance(record, dict) else None
            reason = None if isinstance(text, str) else f"no text under {config.text_field!r}"
        except orjson.JSONDecodeError as error:
            reason = f"not JSON ({error})"
        if reason is None:
            yield text
            continue
        bad += 1
        dropped["bad line"] += 1
        if bad > config.max_bad_lines:
            raise UserError(
                f"{path}: line {number}: {reason}, and {bad - 1} lines before it were skipped; mend the file, "
                "or set text.text_field or text.max_bad_lines"
            )


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise UserError(f"{path}: no column {column!r}; it has {', '.join(file.schema_arrow.names)} (text.text_field)")
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=[column]):
                yield from (text for text in batch.column(0).to_pylist() if isinstance(text, str))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as parquet: {' '.join(str(error).split())}") from None
