"""Stage `tokenize`: parts to shards, one part's documents to one shard a split."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import write_array
from data_prep.blocks import write_block_digests
from data_prep.dedupe.deduplicate import Fates
from data_prep.dedupe.filtering import KEPT_HELDOUT, KEPT_TRAIN, REASONS
from data_prep.files import file_digest, write_json
from data_prep.job import WORK, Facts, Item, Outputs
from data_prep.manifest import HELDOUT, SHARDS, TOKENIZER, TRAIN
from data_prep.plan import Plan
from data_prep.progress import BYTES, Advance
from data_prep.shards import ShardWriter
from data_prep.text.parts import Part, Parts
from data_prep.text.sentences import split_sentences
from data_prep.tokenizer import Tokenizer, load_tokenizer, tokenizer_digest

_SPLIT_OF = {KEPT_TRAIN: TRAIN, KEPT_HELDOUT: HELDOUT}
_BATCH_CHARACTERS = 1 << 19
"""A tokenizer takes some hundred bytes of memory a character."""
HISTOGRAM = ".histogram.npy"
"""End of the name of a file that counts a shard's training tokens by id."""


class Tokenize:
    """Encode what is left of each part, end every document with eos, and write its shards and its manifest."""

    name = "tokenize"
    unit = BYTES

    def __init__(self, root: Path, plan: Plan, parts: Parts, fates: Fates, cleaned: list[Facts]) -> None:
        self._root = root
        self._plan = plan
        self._parts = parts
        self._fates = fates
        self._slices = {read.name: (read, facts) for read, facts in zip(plan.slices, cleaned, strict=True)}
        self._digests = {item.name: item.digest for item in plan.inputs}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self._root / TOKENIZER, self._plan.config.tokenizer.split_special_tokens)

    def items(self) -> list[Item]:
        """The parts."""
        return [Item(part.name, part.bytes) for part in self._parts]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write one part's shards; a split that has no document leaves none."""
        part = self._parts.named(item.name)
        fates = self._fates.of(part)
        language = self._language(part)
        folder = f"{SHARDS}/{part.corpus}"
        kept = [fate for fate in _SPLIT_OF if (fates == fate).any()]
        prefixes = {fate: f"{folder}/{_SPLIT_OF[fate]}-{part.index:05d}" for fate in kept}
        files = [prefix + kind for prefix in prefixes.values() for kind in (".bin", ".idx", ".blocks")]
        paths = {name: outputs.path(name) for name in files}
        read = 0
        with ExitStack() as stack:
            writers = {
                fate: stack.enter_context(
                    ShardWriter(paths[f"{prefix}.bin"], paths[f"{prefix}.idx"], self._tokenizer.vocab_size)
                )
                for fate, prefix in prefixes.items()
            }
            texts = self._parts.chosen(part, np.isin(fates, kept))
            for batch in _batches(texts):
                size = sum(len(text.encode()) for _, text in batch)
                for (row, _), sequences in zip(batch, self._encode([text for _, text in batch], language), strict=True):
                    writers[fates[row]].add_document(sequences)
                read += size
                advance(size)
        for prefix in prefixes.values():
            write_block_digests(paths[f"{prefix}.bin"], paths[f"{prefix}.blocks"])
        train = writers[KEPT_TRAIN].histogram if KEPT_TRAIN in writers else np.zeros(self._tokenizer.vocab_size, np.int64)
        write_array(outputs.path(f"{WORK}/{self.name}/{part.name}{HISTOGRAM}"), train)
        splits = {
            _SPLIT_OF[fate]: {
                "prefix": prefixes[fate],
                "documents": writer.documents,
                "sequences": writer.sequences,
                "tokens": writer.tokens,
                "blocks": f"{prefixes[fate]}.blocks",
            }
            for fate, writer in writers.items()
        }
        dropped = {reason: int((fates == fate).sum()) for fate, reason in REASONS.items()}
        self._write_manifest(outputs.path(f"{folder}/part-{part.index:05d}.json"), part, dropped, splits, paths)
        return {
            "corpus": part.corpus,
            "documents_in": int(np.isin(fates, kept).sum()),
            "documents_out": sum(split["documents"] for split in splits.values()),
            "bytes_in": read,
            "bytes_out": sum(path.stat().st_size for path in paths.values()),
            "tokens_out": sum(split["tokens"] for split in splits.values()),
            "splits": splits,
            "dropped": dropped,
        }

    def _language(self, part: Part) -> str:
        """Whose rules end a sentence: the corpus's language where it has a single one."""
        return self._plan.corpus(part.corpus).language or "en"

    def _encode(self, texts: list[str], language: str) -> Iterator[list[list[int]]]:
        """Each text's sequences of ids, the last one ended by eos."""
        documents = [[text] for text in texts]
        if self._plan.config.sequences == "sentence":
            documents = [split_sentences(text, language) for text in texts]
        ids = iter(self._tokenizer.encode_batch([sequence for document in documents for sequence in document]))
        for document in documents:
            sequences = list(islice(ids, len(document)))
            sequences[-1].append(self._tokenizer.eos_id)
            yield sequences

    def _write_manifest(
        self, path: Path, part: Part, dropped: dict[str, int], splits: dict[str, Any], paths: dict[str, Path]
    ) -> None:
        read, cleaned = self._slices[part.slice]
        told = {
            "plan": self._plan.digest,
            "tokenizer": tokenizer_digest(self._tokenizer),
            "slice": {
                "inputs": [
                    {**piece.model_dump(include={"path", "start", "stop"}), "digest": self._digests[piece.path]}
                    for piece in read.pieces
                ],
                "documents_in": cleaned.counts["documents_in"],
                "dropped": cleaned.counts["dropped"],
                "parts": [written["name"] for written in cleaned.counts["parts"]],
            },
            "part": part.name,
            "documents_in": part.documents,
            "characters_in": part.characters,
            "dropped": dropped,
            "splits": splits,
            "files": {name: file_digest(file) for name, file in paths.items()},
        }
        write_json(path, told)


def _batches(texts: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Documents together, up to _BATCH_CHARACTERS and the last one."""
    batch: list[tuple[int, str]] = []
    characters = 0
    for row, text in texts:
        batch.append((row, text))
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
