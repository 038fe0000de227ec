"""Shards and prepared folders that tests write themselves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.manifest import FORMAT, HELDOUT, MANIFEST, SHARDS, TOKENIZER, TRAIN, UNIGRAMS, PreparedData
from data_prep.shards import Shard, ShardWriter, bin_path, idx_path
from data_prep.storage.arrays import write_array
from data_prep.storage.block_digests import write_block_digests
from pipeline.common.files import file_digest, json_digest, write_json

Document = Sequence[Sequence[int]]
"""The ids of each sequence."""

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class MemoryShard:
    """Tokens that lie in no file; documents begin at `starts`."""

    def __init__(self, tokens: np.ndarray, starts: Sequence[int] = (0,)) -> None:
        self.tokens = tokens
        self.size = len(tokens)
        self._starts = np.array(starts, dtype=np.int64)

    def read(self, begin: int, end: int) -> np.ndarray:
        return self.tokens[begin:end]

    def boundaries(self, begin: int, end: int) -> np.ndarray:
        return self._starts[(self._starts > begin) & (self._starts < end)]


def write_shard(prefix: Path, documents: Sequence[Document], vocab_size: int = 100) -> Shard:
    """Write documents into a shard and open it."""
    with ShardWriter(bin_path(prefix), idx_path(prefix), vocab_size) as writer:
        add_documents(writer, documents)
    return Shard(prefix)


def add_documents(writer: ShardWriter, documents: Sequence[Document]) -> None:
    """Append documents to a shard."""
    sequences = [ids for document in documents for ids in document]
    ids = np.array([number for sequence in sequences for number in sequence], dtype=np.int64)
    writer.add_documents(ids, np.array(list(map(len, sequences)), int), np.array(list(map(len, documents)), int))


def write_prepared(
    directory: Path, corpora: dict[str, tuple[list[list[Document]], list[list[Document]]]], **weights: float
) -> PreparedData:
    """Write a prepared folder: for each corpus its training and its held-out shards, each a list of documents."""
    entries = []
    for name, splits in corpora.items():
        written, unigrams = {}, np.zeros(100, dtype=np.int64)
        for split, shards in zip((TRAIN, HELDOUT), splits, strict=True):
            written[split] = {"shards": []}
            for number, documents in enumerate(shards):
                prefix = f"{name}-{split}-{number}"
                shard = write_shard(directory / prefix, documents)
                counts = {"documents": shard.documents, "sequences": shard.sequences, "tokens": shard.size}
                written[split]["shards"].append({"prefix": prefix, **counts, "blocks": f"{prefix}.blocks"})
                write_block_digests(bin_path(shard.prefix), directory / f"{prefix}.blocks")
                unigrams += np.bincount(shard.tokens, minlength=len(unigrams)) * (split == TRAIN)
        (directory / SHARDS / name).mkdir(parents=True)
        write_array(directory / SHARDS / name / UNIGRAMS, unigrams)
        counts = {"documents_read": 0, "dropped": {}, "examples": {}, "lengths": {}}
        entries.append({"name": name, "weight": weights.get(name), "splits": written, **counts})
    (directory / TOKENIZER).mkdir()
    (directory / TOKENIZER / "vocab.txt").write_text("\n".join([*SPECIAL, *(f"w{i}" for i in range(95))]))
    config = {
        "output_dir": str(directory),
        "corpora": [{"name": name, "files": ["-"]} for name in corpora],
        "tokenizer": {"path": str(directory / TOKENIZER)},
    }
    manifest = {"format": FORMAT, "fingerprint": "f", "config": config, "tokenizer": "", "vocab_size": 100, "corpora": entries}
    write_manifest(directory, manifest)
    return PreparedData(directory)


def write_manifest(directory: Path, content: dict[str, Any]) -> None:
    """Write a manifest with the digests of all files that are there, and its own."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    content = content | {"files": {path.relative_to(directory).as_posix(): file_digest(path) for path in files}}
    write_json(directory / MANIFEST, content | {"digest": json_digest(content)})
