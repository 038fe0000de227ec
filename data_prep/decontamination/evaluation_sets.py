"""The texts of evaluation sets, out of the files in which they are published."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.storage.stores import Remote, Source, named, raw_file
from pipeline.common.errors import UserError, one_line

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_RECORDS = (".json", ".jsonl", ".ndjson")
_TABLES = {".tsv": "\t", ".csv": ","}
_PLAIN = (".txt", ".raw", ".tokens")
ENDINGS = (*_RECORDS, *_TABLES, *_PLAIN, ".parquet")
"""Of the names of files that are read; all but .parquet also with .gz, .bz2 or .zst behind them."""


def format_of(path: Source) -> str | None:
    """Return which of ENDINGS a file's name has; None where it has none of them."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in _COMPRESSIONS:
        endings.pop()
        if endings[-1:] == [".parquet"]:
            return None
    return endings[-1] if endings and endings[-1] in ENDINGS else None


def files_of(patterns: Iterable[str], key: str) -> list[Source]:
    """Return the files of a set that paths, URLs, globs and folders name, sorted within each.

    Raises UserError, which names `key`, where one of them names none.
    """
    files: dict[Source, None] = {}
    for pattern in patterns:
        found = [file for path in named(pattern) for file in (_below(path) if path.is_dir() else [path])]
        found = [file for file in found if isinstance(file, Remote) or file.is_file()]
        if not found:
            raise UserError(f"{key}: {pattern}: no such file, or a folder without one of {', '.join(ENDINGS)}; name others")
        files.update(dict.fromkeys(found))
    for path in files:
        if format_of(path) is None:
            raise UserError(
                f"{key}: {path}: unknown type of file; known are {', '.join(ENDINGS)}, all but .parquet also with "
                f"{', '.join(_COMPRESSIONS)} behind them"
            )
    return list(files)


def _below(folder: Source) -> list[Source]:
    files: Sequence[Source] = folder.below() if isinstance(folder, Remote) else sorted(folder.rglob("*"))
    return [file for file in files if format_of(file)]


def texts_of(path: Source) -> Iterator[str]:
    """Yield the texts of a file: every string in its records or rows, at any depth; of a plain text the whole.

    Raises UserError, which names the file, where it is gone or damaged.
    """
    kind = format_of(path)
    try:
        yield from _parquet(path) if kind == ".parquet" else _texts(_content(path), kind)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error, None)}); put it back, or leave it out") from None


def _content(path: Source) -> bytes:
    source = raw_file(path, lambda _: None, path.size) if isinstance(path, Remote) else str(path)
    with pa.input_stream(source, compression=_COMPRESSIONS.get(path.suffix.lower())) as file:
        return file.read()


def _texts(content: bytes, kind: str | None) -> Iterator[str]:
    if kind in _RECORDS:
        yield from _strings(_records(content))
    elif kind in _TABLES:
        # A quotation mark of a tab-separated file is a character like others (GLUE's).
        lines = content.decode("utf-8-sig").splitlines(keepends=True)
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if kind == ".csv" else csv.QUOTE_NONE
        yield from _strings(csv.reader(lines, delimiter=_TABLES[kind], quoting=quoting))
    else:
        yield content.decode("utf-8-sig")


def _records(content: bytes) -> Any:
    """All of a file's JSON: one value, or one a line."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        text = content.decode("utf-8-sig")
    try:
        # json.dumps writes NaN, which orjson keeps out.
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def _parquet(path: Source) -> Iterator[str]:
    with pq.ParquetFile(raw_file(path, lambda _: None)) as file:
        for batch in file.iter_batches(batch_size=1024, use_threads=False):
            yield from _strings(batch.to_pylist())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        # Of what is no text, an image for instance, nothing is looked for.
        with suppress(UnicodeDecodeError):
            yield value.decode()
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif hasattr(value, "__iter__"):
        for each in value:
            yield from _strings(each)
