"""Text to shards: read, clean, split, train or load the tokenizer, tokenize, write, and sign with a manifest.

The result lies in a folder named by a fingerprint of everything it depends on, so that equal input
is prepared once; the folder appears whole, with `manifest.json` in it, or not at all.
"""

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
from pydantic import BaseModel

from data_prep.clean import clean
from data_prep.config import DataPrepConfig, TextConfig, TokenizerConfig
from data_prep.errors import UserError
from data_prep.files import file_digest, locked, text_digest, whole_directory, write_json
from data_prep.python_docs import identity, read_python_docs
from data_prep.readers import expand, read_documents
from data_prep.shards import ShardWriter
from data_prep.tokenizer import (
    SENTENCEPIECE_FILE,
    Tokenizer,
    load_tokenizer,
    tokenizer_digest,
    train_sentencepiece,
)

MANIFEST = "manifest.json"
TRAIN = "train"
HELDOUT = "heldout"
_TOKENIZER_FOLDER = "tokenizer"
_BATCH_DOCUMENTS = 1000
_FORMAT = 1
"""Counts up when equal input comes to give other shards."""


class SplitCounts(BaseModel):
    """What one split holds."""

    documents: int
    characters: int
    tokens: int


class Manifest(BaseModel):
    """What a prepared folder holds and what it was made of."""

    fingerprint: str
    inputs: list[str]
    text: TextConfig
    tokenizer: str
    vocab_size: int
    dropped: dict[str, int]
    splits: dict[str, SplitCounts]
    unigram_entropy: float
    """Entropy of the training tokens' frequencies, nats per token: what a model that ignores context can reach."""
    files: dict[str, str]
    """BLAKE2b-128 of each shard file."""


class PreparedData:
    """A prepared folder: manifest, tokenizer, and the prefix of each split's shard."""

    def __init__(self, directory: Path) -> None:
        """Open `directory`; raises UserError where it is no prepared folder."""
        path = directory / MANIFEST
        try:
            self.manifest = Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; the folder holds no prepared data, prepare the text first") from None
        except ValueError as error:
            raise UserError(f"{path}: not a manifest ({str(error).splitlines()[0]})") from None
        self.directory = directory
        self.tokenizer: Tokenizer = load_tokenizer(directory / _TOKENIZER_FOLDER)

    def shard(self, split: str) -> Path:
        """The path prefix of a split's shard."""
        return self.directory / split


def prepare(config: DataPrepConfig, say: Callable[[str], None]) -> PreparedData:
    """Return the prepared data that `config` asks for, making it unless it is there.

    `say` takes a line of progress now and then. Raises UserError, leaving nothing half-written.
    """
    root = Path(config.output_dir)
    fingerprint, inputs = _fingerprint(config)
    directory = root / fingerprint
    with locked(root / f".{fingerprint}.lock", wait=True):
        if (directory / MANIFEST).is_file():
            say(f"data: {directory} is prepared already")
        else:
            with whole_directory(directory) as aside:
                _prepare_into(aside, config, fingerprint, inputs, say)
    return PreparedData(directory)


def _fingerprint(config: DataPrepConfig) -> tuple[str, list[str]]:
    """A hash of everything that the shards depend on, and the inputs' identities."""
    text = config.text
    inputs = [identity()] if text.corpus is not None else []
    inputs += [f"{path}:{file_digest(path)}" for path in _training_files(text)]
    inputs += [f"heldout {path}:{file_digest(path)}" for path in expand(text.heldout_files)]
    tokenizer = config.tokenizer.model_dump()
    if config.tokenizer.path is not None:
        # What it is counts, not where it lies.
        del tokenizer["path"]
        tokenizer["files"] = tokenizer_digest(load_tokenizer(Path(config.tokenizer.path)))
    told = json.dumps([_FORMAT, text.model_dump(), tokenizer, inputs], sort_keys=True)
    return text_digest(told)[:12], inputs


def _prepare_into(
    folder: Path, config: DataPrepConfig, fingerprint: str, inputs: list[str], say: Callable[[str], None]
) -> None:
    say("data: reading and cleaning text")
    dropped: Counter[str] = Counter()
    cleaned = {split: folder / f"{split}.documents" for split in (TRAIN, HELDOUT)}
    characters = _clean_into(cleaned, config.text, dropped)
    for split, key in ((TRAIN, "text.files"), (HELDOUT, "text.heldout_fraction")):
        if not characters[split]:
            raise UserError(f"{key}: no document is left for the {split} split ({dict(dropped)} dropped); give more text")

    doing = "training a tokenizer" if config.tokenizer.path is None else "loading the tokenizer"
    say(f"data: {sum(characters.values()) / 1e6:.1f} million characters of text; {doing}")
    tokenizer = _provide_tokenizer(folder / _TOKENIZER_FOLDER, config.tokenizer, cleaned[TRAIN], characters[TRAIN])

    splits: dict[str, SplitCounts] = {}
    entropy = 0.0
    for split, path in cleaned.items():
        say(f"data: tokenizing the {split} split")
        with ShardWriter(folder / split, tokenizer.vocab_size) as writer:
            texts = _documents(path)
            while batch := list(islice(texts, _BATCH_DOCUMENTS)):
                for ids in tokenizer.encode_batch(batch):
                    writer.add_document([*ids, tokenizer.eos_id])
        splits[split] = SplitCounts(
            documents=writer.documents, characters=characters[split], tokens=int(writer.histogram.sum())
        )
        if split == TRAIN:
            entropy = _entropy(writer.histogram)
        path.unlink()

    manifest = Manifest(
        fingerprint=fingerprint,
        inputs=inputs,
        text=config.text,
        tokenizer=tokenizer_digest(tokenizer),
        vocab_size=tokenizer.vocab_size,
        dropped=dict(dropped),
        splits=splits,
        unigram_entropy=entropy,
        files={path.name: file_digest(path) for path in sorted(folder.glob("[!.]*.*"))},
    )
    write_json(folder / MANIFEST, manifest.model_dump())
    say("data: " + ", ".join(f"{split} {count.tokens:,} tokens" for split, count in splits.items()))


def _clean_into(cleaned: dict[str, Path], config: TextConfig, dropped: Counter[str]) -> Counter[str]:
    """Write each split's cleaned documents, one JSON string a line; return characters by split."""
    characters: Counter[str] = Counter()
    with open(cleaned[TRAIN], "wb") as train, open(cleaned[HELDOUT], "wb") as heldout:
        files = {TRAIN: train, HELDOUT: heldout}
        for named_split, text in _raw_documents(config, dropped):
            text = clean(text)
            if len(text) < config.min_characters:
                dropped["too short"] += 1
                continue
            split = named_split or (HELDOUT if _is_heldout(text, config.heldout_fraction) else TRAIN)
            files[split].write(orjson.dumps(text.encode("utf-8", "replace").decode()) + b"\n")
            characters[split] += len(text)
    return characters


def _raw_documents(config: TextConfig, dropped: Counter[str]) -> Iterator[tuple[str | None, str]]:
    """Yield (split, or None where a hash decides; document)."""
    split = TRAIN if config.heldout_files else None
    if config.corpus is not None:
        yield from ((split, text) for text in read_python_docs(dropped))
    for path in _training_files(config):
        yield from ((split, text) for text in read_documents(path, config, dropped))
    for path in expand(config.heldout_files):
        yield from ((HELDOUT, text) for text in read_documents(path, config, dropped))


def _training_files(config: TextConfig) -> list[Path]:
    """The files to train on: a glob may cover held-out files too."""
    heldout = {path.resolve() for path in expand(config.heldout_files)}
    return [path for path in expand(config.files) if path.resolve() not in heldout]


def _is_heldout(text: str, fraction: float) -> bool:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, person=b"heldout").digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def _documents(path: Path) -> Iterator[str]:
    with open(path, "rb") as file:
        for line in file:
            yield orjson.loads(line)


def _provide_tokenizer(folder: Path, config: TokenizerConfig, documents: Path, characters: int) -> Tokenizer:
    """Put the tokenizer's files into `folder`, copied or trained, and load it from there."""
    folder.mkdir()
    if config.path is not None:
        for path in load_tokenizer(Path(config.path)).files:
            shutil.copyfile(path, folder / path.name)
    else:
        stride = max(1, math.ceil(characters / config.sample_characters))
        sample = (text for number, text in enumerate(_documents(documents)) if number % stride == 0)
        train_sentencepiece(sample, config.vocab_size, folder / SENTENCEPIECE_FILE)
    return load_tokenizer(folder)


def _entropy(histogram: Iterable[int]) -> float:
    """Entropy of a histogram, in nats."""
    counts = np.asarray(histogram, dtype=np.float64)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
