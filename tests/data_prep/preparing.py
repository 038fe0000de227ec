"""What many tests prepare: files of records, the configuration over them, and the records of cleaned text."""

import json
import resource
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import zstandard

from data_prep.settings import DataPrepConfig
from data_prep.summary import REPORT

BYTE_LEVEL = {"vocab_size": 300, "algorithm": "byte_level_bpe"}


def write_jsonl(path: Path, records: Iterable[str | Mapping[str, Any]], end: str = "") -> str:
    """Write records, or texts, a line each, and `end` behind them; return the path."""
    records = ({"text": record} if isinstance(record, str) else record for record in records)
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + end, encoding="utf-8")
    return str(path)


def preparation(
    output: object, *corpora: Mapping[str, Any], tokenizer: Mapping[str, Any] = BYTE_LEVEL, **options: Any
) -> DataPrepConfig:
    """The configuration of a preparation, its corpora given by their keys."""
    return DataPrepConfig(output_dir=str(output), corpora=list(corpora), tokenizer=tokenizer, **options)


def modified(directory: Path) -> dict[Path, int]:
    """When each file below a folder was last modified."""
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


@contextmanager
def few_descriptors(more: int = 64) -> Iterator[None]:
    """So many more files can be open than are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def dropped_examples(directory: Path) -> list[dict[str, Any]]:
    """The examples that a preparation leaves of what it dropped."""
    return [json.loads(line) for line in (directory / REPORT).read_text(encoding="utf-8").splitlines()]


def cleaned_records(directory: Path) -> list[dict[str, Any]]:
    """The records of the text beside the shards, in the order of its files."""
    found = []
    for path in sorted(directory.glob("text/*/*")):
        if path.suffix == ".parquet":
            found += [row | {"metadata": json.loads(row["metadata"])} for row in pq.read_table(path).to_pylist()]
        else:
            with zstandard.open(path, "rt", encoding="utf-8") as file:
                found += map(json.loads, file)
    return found
