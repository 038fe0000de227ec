"""Stage `verify`: what was written, read back and held against its hashes; and the same of a finished folder."""

from pathlib import Path
from typing import Any

from data_prep.jobs.job import Facts, Item, Outputs
from data_prep.manifest import MANIFEST, PreparedData
from data_prep.shards import Shard
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest
from pipeline.common.progress import BYTES, Advance, Meter


class Verify:
    """Hash every file of a tokenized part again, and open its shards."""

    name = "verify"
    unit = BYTES

    def __init__(self, root: Path, tokenized: list[Facts]) -> None:
        self._root = root
        self._tokenized = {facts.item: facts for facts in tokenized}

    def items(self) -> list[Item]:
        """The tokenized parts."""
        return [Item(name, facts.counts["bytes_out"]) for name, facts in self._tokenized.items()]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Check one part; raises UserError, naming the file, where the disk gives back something else."""
        facts = self._tokenized[item.name]
        for name, digest in facts.outputs.items():
            if file_digest(self._root / name, advance) != digest:
                raise UserError(
                    f"{self._root / name}: reads back differently from what was written; check the disk and start again"
                )
        documents = tokens = 0
        for split in facts.counts["splits"].values():
            shard = Shard(self._root / split["prefix"])
            documents += shard.documents
            tokens += shard.size
        if (documents, tokens) != (facts.counts["documents_out"], facts.counts["tokens_out"]):
            raise UserError(
                f"{item.name}: its shards hold {documents} documents of {tokens} tokens, not as many as were written"
            )
        return {"documents_out": documents, "tokens_out": tokens}


def damaged(data: PreparedData) -> list[str]:
    """Return what of a finished folder is missing or differs from its hash, a line a file."""
    lines = []
    paths = {name: data.directory / name for name in data.manifest.files}
    size = sum(path.stat().st_size for path in paths.values() if path.is_file())
    with Meter(f"{data.directory}: files read", size) as meter:
        for name, digest in data.manifest.files.items():
            path = paths[name]
            try:
                if not path.is_file():
                    lines.append(f"{path}: missing")
                elif file_digest(path, meter.advance) != digest:
                    lines.append(f"{path}: damaged (its hash is not the one in {MANIFEST})")
            except OSError as error:
                lines.append(f"{path}: cannot be read ({error.strerror})")
    if not lines:
        # An earlier version's manifest has no digest: what it counts is held against the shards.
        try:
            for corpus in data.corpora:
                for split in corpus.splits:
                    data.open(corpus, split)
        except UserError as error:
            lines.append(str(error))
    return lines
