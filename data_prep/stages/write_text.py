"""Stage `text`: the documents themselves, written beside the shards where they are asked for."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from data_prep.dedupe.deduplicate import Decisions
from data_prep.dedupe.filtering import REASONS, SPLIT_OF
from data_prep.jobs.job import Item, Outputs
from data_prep.manifest import TEXT
from data_prep.plans.plan import Plan
from data_prep.settings import CleanedTextConfig
from data_prep.stages.clean import dropped_file
from data_prep.text.batches import batches
from data_prep.text.document import Document
from data_prep.text.document_parts import DocumentPart, DocumentParts, read_documents
from pipeline.common.progress import BYTES, Advance

_DROPPED = ".dropped"


class WriteText:
    """Write what is left of each part and, where they are asked for, the documents that were dropped.

    A record has `text`, `id` (the column of that name, else where it stands), `source`, `split` (empty where it was dropped),
    `dropped` (why, else empty) and `metadata`, the other columns. One file a part; those that cleaning dropped are in one a
    slice. The two are never null: Hugging Face's datasets would take a file that has nothing else for a column without a type.
    """

    name = "text"
    unit = BYTES

    def __init__(self, config: CleanedTextConfig, plan: Plan, parts: DocumentParts, decisions: Decisions) -> None:
        self._config = config
        self._slices = {item.name: item for item in plan.slices}
        self._parts = parts
        self._decisions = decisions

    def items(self) -> list[Item]:
        """The parts, and the slices that documents were dropped from."""
        dropped = self._slices.values() if self._config.dropped else ()
        return [
            *(Item(part.name, part.bytes) for part in self._parts),
            *(Item(f"{each.name}{_DROPPED}", each.size) for each in dropped),
        ]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write the file of a part, or of a slice's dropped documents; none where there are no documents."""
        if item.name.endswith(_DROPPED):
            of = self._slices[item.name.removesuffix(_DROPPED)]
            name, records = f"{of.corpus}/dropped-{of.name}", self._dropped(of.name)
        else:
            part = self._parts.named(item.name)
            name, records = f"{part.corpus}/part-{part.index:05d}", self._of_part(part)
        first = next(records, None)
        if first is None:
            return {"documents_out": 0}
        write = _write_jsonl if self._config.format == "jsonl" else _write_parquet
        ending = ".jsonl.zst" if self._config.format == "jsonl" else ".parquet"
        count = write(outputs.path(f"{TEXT}/{name}{ending}"), chain([first], records))
        advance(item.size)
        return {"documents_out": count}

    def _of_part(self, part: DocumentPart) -> Iterator[dict[str, Any]]:
        decisions = self._decisions.of(part)
        wanted = np.isin(decisions, list(SPLIT_OF)) | self._config.dropped
        for row, document in read_documents(self._parts.path(part), wanted):
            decision = int(decisions[row])
            yield _record(document, SPLIT_OF.get(decision, ""), REASONS.get(decision, document.dropped or ""))

    def _dropped(self, slice_name: str) -> Iterator[dict[str, Any]]:
        for _, document in read_documents(self._parts.root / dropped_file(slice_name)):
            yield _record(document, "", document.dropped or "")


def _record(document: Document, split: str, dropped: str) -> dict[str, Any]:
    metadata = dict(document.columns)
    named = metadata.pop("id", None)
    return {
        "text": document.text,
        "id": document.where if named is None else str(named),
        "source": document.where,
        "split": split,
        "dropped": dropped,
        "metadata": metadata,
    }


def _write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> int:
    count = 0
    with open(path, "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as writer:
        for record in records:
            writer.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            count += 1
    return count


def _write_parquet(path: Path, records: Iterable[dict[str, Any]]) -> int:
    schema = pa.schema([(name, pa.large_string()) for name in ("text", "id", "source", "split", "dropped", "metadata")])
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches(records, lambda record: len(record["text"])):
            # Columns differ from corpus to corpus, and in type from record to record: as JSON they are one type.
            rows = [record | {"metadata": json.dumps(record["metadata"], ensure_ascii=False)} for record in batch]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(batch)
    return count
