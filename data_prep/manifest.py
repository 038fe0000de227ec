"""What a prepared folder holds, and how it is opened."""

import io
import json
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from data_prep.encoding.choice import Encoding
from data_prep.settings import DataPrepConfig
from data_prep.shards import Shard, idx_path
from data_prep.tokenizers.files import JSON
from data_prep.tokenizers.loading import Tokenizer, load_tokenizer
from pipeline.common.config import read_json
from pipeline.common.errors import UserError
from pipeline.common.files import json_digest, read_bytes

FORMAT = 3
"""Counts up when equal input comes to give other shards."""

MANIFEST = "manifest.json"
PLAN = "plan.json"
TOKENIZER = "tokenizer"
SHARDS = "shards"
TEXT = "text"
"""The folder of the documents themselves, where they are asked for."""
UNIGRAMS = "unigrams.npy"
"""Beside a corpus's shards: how often its training tokens hold each id, int64 [vocabulary]."""
TRAIN = "train"
HELDOUT = "heldout"
SPLITS = (TRAIN, HELDOUT)


class ShardEntry(BaseModel):
    """One shard."""

    prefix: str
    """Below the folder; an absolute path where it was taken as it is."""
    documents: int
    sequences: int
    tokens: int
    blocks: str | None = None
    """The digests of its ids by blocks (`storage.block_digests`), below the folder; None where an earlier version wrote it."""


class SplitEntry(BaseModel):
    """One split of a corpus."""

    shards: list[ShardEntry] = []

    @property
    def documents(self) -> int:
        """Documents in all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens in all shards, the ends of documents included."""
        return sum(shard.tokens for shard in self.shards)


class CorpusEntry(BaseModel):
    """What one corpus came to."""

    name: str
    weight: float | None
    documents_read: int
    dropped: Counter[str]
    """Documents by reason; `bad file` counts files."""
    examples: dict[str, list[str]]
    """Where the first ones of each reason stand."""
    contaminated: Counter[str] = Field(default_factory=Counter)
    """Documents with a passage of each evaluation set that was looked for, dropped or not."""
    dropped_by: dict[str, Counter[str]] = Field(default_factory=dict)
    """Of `dropped`, the documents that each step dropped, by step and reason."""
    changed: Counter[str] = Field(default_factory=Counter)
    """Documents whose text each step changed."""
    removed: Counter[str] = Field(default_factory=Counter)
    """What documents that stay lost by `dedupe_spans`: `lines` or `paragraphs`, and `characters`."""
    languages: Counter[str] = Field(default_factory=Counter)
    """Cleaned documents by language, where it was looked at, before copies go."""
    domains: Counter[str] = Field(default_factory=Counter)
    """Cleaned documents by the host of their `url`, where that is among the columns: at least so many, of
    each slice the 100 most frequent are added up."""
    lengths: Counter[str]
    """Cleaned documents by the bits of their length in characters: "7" counts those of 64 to 127."""
    splits: dict[str, SplitEntry]

    def add(self, counts: Mapping[str, Any]) -> None:
        """Add counts of documents by name, of those fields that `counts` has."""
        for key in ("dropped", "contaminated", "changed", "removed", "languages", "domains", "lengths"):
            getattr(self, key).update(counts.get(key, {}))
        for step, reasons in counts.get("dropped_by", {}).items():
            self.dropped_by.setdefault(step, Counter()).update(reasons)


class Manifest(BaseModel):
    """A prepared folder, whole."""

    format: int = 0
    """FORMAT of the version that prepared it; 0 for those that did not say."""
    fingerprint: str
    """Of the plan and the tokenizer: equal ones mean equal shards."""
    config: DataPrepConfig
    tokenizer: str
    """The tokenizer's class, and hashes of its files."""
    vocab_size: int
    encoding: Encoding | None = None
    """By which library the text was encoded; None where there was none, and where an earlier version prepared it."""
    corpora: list[CorpusEntry]
    evaluation_sets: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Of each set that was looked for, `texts` that have an n-gram, and `short` ones that have too few words."""
    files: dict[str, str]
    """BLAKE2b-128 of every file, by its path (below the folder, or absolute)."""
    digest: str | None = None
    """Of everything else in the manifest (`json_digest`); None where an earlier version wrote it."""


class PreparedData:
    """A prepared folder: manifest, tokenizer, shards."""

    def __init__(self, directory: Path) -> None:
        """Open `directory`; raises UserError where it is no prepared folder."""
        path = directory / MANIFEST
        try:
            content = json.loads(read_bytes(path).decode())
            self.manifest = Manifest.model_validate(content)
        except FileNotFoundError:
            started = (directory / PLAN).exists()
            hint = "the preparation was started and not finished, start it again" if started else "prepare the text first"
            raise UserError(f"{path}: no such file; {hint}") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); put it back, or prepare the text again") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a manifest ({str(error).splitlines()[0]})") from None
        if self.manifest.digest not in (None, json_digest(content)):
            raise UserError(
                f"{path}: was changed after it was written; put it back, or remove the folder and prepare the text again "
                "(other weights are given as data.weights of a recipe)"
            )
        self.directory = directory
        self._opened: dict[tuple[str, str], list[Shard]] = {}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the shards; raises UserError where it does not load, or is not the one that made them."""
        path = self.directory / TOKENIZER / JSON
        if self.manifest.format < FORMAT and path.is_file():
            description = read_json(path, "prepare the text again")
            saved = [key for key in ("truncation", "padding") if description.get(key)]
            if saved:
                raise UserError(
                    f"{path}: has {' and '.join(saved)} saved, and the shards were made by a version that cut or padded every "
                    "document by it; prepare the text again"
                )
        tokenizer = load_tokenizer(self.directory / TOKENIZER, self.manifest.config.tokenizer.split_special_tokens)
        if tokenizer.vocab_size != self.manifest.vocab_size:
            raise UserError(
                f"{self.directory / TOKENIZER}: has {tokenizer.vocab_size} ids, and the shards were made with "
                f"{self.manifest.vocab_size}; put the tokenizer back, or prepare the text again"
            )
        return tokenizer

    @property
    def remarks(self) -> list[str]:
        """What whoever reads the shards should know of them."""
        if self.manifest.format >= FORMAT:
            return []
        return [
            f"{self.directory}: prepared by an earlier version, which took special tokens spelled in a text for those tokens "
            "with some tokenizers, and did not load every tokenizer as AutoTokenizer does; prepare the text again to be sure "
            "of its ids"
        ]

    @property
    def corpora(self) -> list[CorpusEntry]:
        """The corpora, in the order of the configuration."""
        return self.manifest.corpora

    @property
    def weights(self) -> dict[str, float]:
        """What each corpus counts in the blend, relative to the others: its weight, or where none has one its training tokens.

        A corpus without a training token, all of whose documents were dropped for instance, is in no blend.
        """
        tokens = {corpus.name: corpus.splits[TRAIN].tokens for corpus in self.corpora}
        return {
            corpus.name: tokens[corpus.name] if corpus.weight is None else corpus.weight
            for corpus in self.corpora
            if tokens[corpus.name]
        }

    def unigram_entropy(self, weights: Mapping[str, float]) -> float:
        """Return the entropy of the training tokens' frequencies in a blend, nats per token.

        It is what a model that ignores context can reach. Raises UserError where the counts are missing or damaged.
        """
        blend = np.zeros(self.manifest.vocab_size)
        for name, weight in weights.items():
            counts = self.unigrams(name)
            blend += counts * (weight / counts.sum())
        share = blend[blend > 0] / blend.sum()
        return float(-(share * np.log(share)).sum())

    def unigrams(self, corpus: str) -> np.ndarray:
        """Return how often a corpus's training tokens hold each id, int64 [vocabulary].

        Raises UserError where the counts are missing or damaged.
        """
        path = self.directory / SHARDS / corpus / UNIGRAMS
        try:
            counts = np.load(io.BytesIO(read_bytes(path)))
        except Exception:  # a damaged header makes numpy's parser raise errors of many kinds
            raise UserError(f"{path}: missing, or no array; prepare the text again") from None
        if counts.shape != (self.manifest.vocab_size,) or not counts.any():
            raise UserError(f"{path}: not the counts of {self.manifest.vocab_size} ids; prepare the text again")
        return counts

    def shards(self, corpus: CorpusEntry, split: str) -> list[Path]:
        """Return the prefixes of a corpus's shards, in order."""
        return [self.directory / shard.prefix for shard in corpus.splits[split].shards]

    def open(self, corpus: CorpusEntry, split: str) -> list[Shard]:
        """Return a corpus's shards, opened once each.

        Raises UserError for a shard that is missing, damaged or another than was prepared, as far as its sizes tell; the rest
        is seen when it is read.
        """
        key = corpus.name, split
        if key not in self._opened:
            self._opened[key] = [self.open_shard(entry) for entry in corpus.splits[split].shards]
        return self._opened[key]

    def open_shard(self, entry: ShardEntry) -> Shard:
        """Return one shard, opened; raises UserError as `open` does."""
        blocks = None if entry.blocks is None else self.directory / entry.blocks
        shard = Shard(self.directory / entry.prefix, blocks=blocks, vocab_size=self.manifest.vocab_size)
        for name, found in (("tokens", shard.size), ("sequences", shard.sequences), ("documents", shard.documents)):
            if found != (due := getattr(entry, name)):
                raise UserError(
                    f"{idx_path(shard.prefix)}: {found} {name} where {MANIFEST} has {due}: not the shard that was prepared; "
                    "put it back, or prepare the text again"
                )
        return shard
