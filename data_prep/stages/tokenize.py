"""Stage `tokenize`: parts to shards, one part's documents to one shard a split."""

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dedupe.deduplicate import Decisions
from data_prep.dedupe.filtering import KEPT_TRAIN, REASONS, SPLIT_OF
from data_prep.encoding.choice import Choice, Fast, UnfitError, compare, reopen, unchosen
from data_prep.encoding.provided_tokenizer import ProvidedTokenizer
from data_prep.encoding.ragged import Ragged
from data_prep.encoding.reference import Reference
from data_prep.jobs.job import WORK, Facts, Item, Outputs
from data_prep.manifest import SHARDS
from data_prep.plans.plan import Plan
from data_prep.shards import ShardWriter
from data_prep.storage.arrays import write_array
from data_prep.storage.block_digests import write_block_digests
from data_prep.text.batches import batches
from data_prep.text.document_parts import DocumentPart, DocumentParts
from data_prep.text.sentences import split_sentences
from pipeline.common.files import file_digest, write_json
from pipeline.common.progress import BYTES, Advance

_COMPARED = 64
"""One document in so many, and the first of each part, is encoded by Hugging Face's too where a fast library encodes."""
HISTOGRAM = ".histogram.npy"
"""End of the name of a file that counts a shard's training tokens by id."""


class Tokenize:
    """Encode what is left of each part, end every document with eos, and write its shards and its manifest."""

    name = "tokenize"
    unit = BYTES

    def __init__(
        self,
        root: Path,
        plan: Plan,
        parts: DocumentParts,
        decisions: Decisions,
        cleaned: list[Facts],
        tokenizer: ProvidedTokenizer,
        fast: bool = True,
    ) -> None:
        """Encode by the library that was chosen for the tokenizer; where not `fast`, by the one whose ids count alone."""
        self._root = root
        self._plan = plan
        self._parts = parts
        self._decisions = decisions
        self._tokenizer = tokenizer
        self._fast = fast
        self._slices = {read.name: (read, facts) for read, facts in zip(plan.slices, cleaned, strict=True)}
        self._digests = {item.name: item.digest for item in plan.inputs}

    @cached_property
    def _reference(self) -> Reference:
        return self._tokenizer.reference(self._root, self._plan.config.tokenizer.split_special_tokens)

    @cached_property
    def _chosen(self) -> tuple[Choice, Fast | None]:
        return reopen(self._tokenizer.encoding, self._reference) if self._fast else (unchosen(self._reference), None)

    def items(self) -> list[Item]:
        """The parts."""
        return [Item(part.name, part.bytes) for part in self._parts]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write one part's shards; a split that has no document leaves none."""
        part = self._parts.named(item.name)
        decisions = self._decisions.of(part)
        folder = f"{SHARDS}/{part.corpus}"
        kept = [decision for decision in SPLIT_OF if (decisions == decision).any()]
        prefixes = {decision: f"{folder}/{SPLIT_OF[decision]}-{part.index:05d}" for decision in kept}
        files = [prefix + kind for prefix in prefixes.values() for kind in (".bin", ".idx", ".blocks")]
        paths = {name: outputs.path(name) for name in files}
        shards = {decision: (paths[f"{prefix}.bin"], paths[f"{prefix}.idx"]) for decision, prefix in prefixes.items()}
        choice, fast = self._chosen
        try:
            writers, read, compared = self._write(part, decisions, shards, fast, advance)
            encoding = Choice(library=choice.library, version=choice.version, compared=compared)
        except UnfitError as error:
            writers, read, _ = self._write(part, decisions, shards, None, advance)
            encoding = unchosen(self._reference, {choice.library: f"{choice.version}: {error}"})
        for prefix in prefixes.values():
            write_block_digests(paths[f"{prefix}.bin"], paths[f"{prefix}.blocks"])
        train = writers[KEPT_TRAIN].histogram if KEPT_TRAIN in writers else np.zeros(self._tokenizer.vocab_size, np.int64)
        write_array(outputs.path(f"{WORK}/{self.name}/{part.name}{HISTOGRAM}"), train)
        splits = {
            SPLIT_OF[decision]: {
                "prefix": prefixes[decision],
                "documents": writer.documents,
                "sequences": writer.sequences,
                "tokens": writer.tokens,
                "blocks": f"{prefixes[decision]}.blocks",
            }
            for decision, writer in writers.items()
        }
        dropped = {reason: int((decisions == decision).sum()) for decision, reason in REASONS.items()}
        self._write_manifest(outputs.path(f"{folder}/part-{part.index:05d}.json"), part, dropped, splits, paths)
        return {
            "corpus": part.corpus,
            "documents_in": int(np.isin(decisions, kept).sum()),
            "documents_out": sum(split["documents"] for split in splits.values()),
            "bytes_in": read,
            "bytes_out": sum(path.stat().st_size for path in paths.values()),
            "tokens_out": sum(split["tokens"] for split in splits.values()),
            "splits": splits,
            "dropped": dropped,
            "encoding": encoding.model_dump(),
        }

    def _write(
        self,
        part: DocumentPart,
        decisions: np.ndarray,
        shards: dict[int, tuple[Path, Path]],
        fast: Fast | None,
        advance: Advance,
    ) -> tuple[dict[int, ShardWriter], int, int]:
        """Write the part's shards by decision; return what wrote them, bytes of text, and documents that were compared.

        Encoded is by `fast`, where there is one: raises UnfitError where a document's ids are not Hugging Face's.
        """
        # Whose rules end a sentence.
        language = self._plan.corpus(part.corpus).language or "en"
        read = compared = 0
        first = True
        with ExitStack() as stack:
            writers = {
                decision: stack.enter_context(ShardWriter(*files, self._tokenizer.vocab_size))
                for decision, files in shards.items()
            }
            for batch in batches(self._parts.chosen(part, np.isin(decisions, list(shards))), lambda item: len(item[1])):
                rows = np.array([row for row, _ in batch])
                documents = [self._sequences(text, language) for _, text in batch]
                sequences = [sequence for document in documents for sequence in document]
                counts = np.array([len(document) for document in documents])
                ids = (fast or self._reference).encode(sequences)
                if fast is not None:
                    checked = (part.first + rows) % _COMPARED == 0
                    checked[0] |= first
                    compared += self._compare(part, rows, sequences, counts, ids, checked)
                    first = False
                self._append(writers, decisions[rows], ids, counts)
                size = sum(len(text.encode()) for _, text in batch)
                read += size
                advance(size)
        return writers, read, compared

    def _sequences(self, text: str, language: str) -> list[str]:
        # Of a text without a sentence, white space alone, the text: eos ends a document's last sequence, so there is one.
        return (split_sentences(text, language) or [text]) if self._plan.config.sequences == "sentence" else [text]

    def _compare(
        self, part: DocumentPart, rows: np.ndarray, sequences: list[str], counts: np.ndarray, ids: Ragged, checked: np.ndarray
    ) -> int:
        """Encode some documents by the reference too; return how many, or raise UnfitError where the ids differ."""
        ends = np.cumsum(counts)
        for place in np.flatnonzero(checked):
            own = slice(int(ends[place] - counts[place]), int(ends[place]))
            try:
                compare(sequences[own], ids[own], self._reference.encode(sequences[own]))
            except UnfitError as error:
                raise UnfitError(f"document {part.first + rows[place]}: {error}") from None
        return int(checked.sum())

    def _append(self, writers: dict[int, ShardWriter], decisions: np.ndarray, ids: Ragged, counts: np.ndarray) -> None:
        """Write documents of `counts` sequences, each ended by eos, to the shard of its decision."""
        lengths = ids.lengths.copy()
        lengths[np.cumsum(counts) - 1] += 1
        ends = np.cumsum(ids.lengths)[np.cumsum(counts) - 1]
        ended = np.insert(ids.ids, ends, self._tokenizer.eos_id)
        for decision, writer in writers.items():
            chosen = decisions == decision
            if chosen.all():
                writer.add_documents(ended, lengths, counts)
            elif chosen.any():
                sequences = np.repeat(chosen, counts)
                writer.add_documents(ended[np.repeat(sequences, lengths)], lengths[sequences], counts[chosen])

    def _write_manifest(
        self, path: Path, part: DocumentPart, dropped: dict[str, int], splits: dict[str, Any], paths: dict[str, Path]
    ) -> None:
        read, cleaned = self._slices[part.slice]
        content = {
            "plan": self._plan.digest,
            "tokenizer": self._tokenizer.digest,
            "slice": {
                "inputs": [
                    {**input_range.model_dump(include={"path", "start", "stop"}), "digest": self._digests[input_range.path]}
                    for input_range in read.pieces
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
        write_json(path, content)
