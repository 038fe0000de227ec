"""Stage `tokenizer`: copy the given tokenizer's files, or train one on an even sample of what training will read."""

import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dedupe.deduplicate import Decisions
from data_prep.dedupe.filtering import KEPT_TRAIN
from data_prep.encoding.choice import choose, unchosen
from data_prep.encoding.provided_tokenizer import DESCRIPTION, ProvidedTokenizer
from data_prep.encoding.ragged import first_difference, ragged
from data_prep.encoding.reference import HuggingFace, Reference, SentencePiece
from data_prep.jobs.job import WORK, Item, Outputs
from data_prep.manifest import TOKENIZER
from data_prep.plans.plan import Plan
from data_prep.text.document_parts import DocumentPart, DocumentParts
from data_prep.tokenizers.files import SENTENCEPIECE, tokenizer_files
from data_prep.tokenizers.loading import Tokenizer, difference, load_tokenizer, tokenizer_digest
from data_prep.tokenizers.probes import PROBES, spelled
from data_prep.tokenizers.training import train_tokenizer
from pipeline.common.errors import UserError
from pipeline.common.progress import Advance

_WORTH_CHOOSING = 4_000_000
"""Characters that Hugging Face's encodes in the time that it takes to compare a library with it."""


class ProvideTokenizer:
    """Leave the tokenizer's files in the folder TOKENIZER."""

    name = "tokenizer"
    unit = "characters"

    def __init__(self, plan: Plan, parts: DocumentParts, decisions: Decisions) -> None:
        self._config = plan.config.tokenizer
        self._given = plan.tokenizer
        self._parts = parts
        self._decisions = decisions

    def items(self) -> list[Item]:
        """One: a tokenizer is trained once, by one process."""
        read = sum(part.characters for part in self._parts) if self._config.path is None else 0
        return [Item("provided", min(read, self._config.sample_characters))]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Copy or train."""
        # Below the job's folder: the disk with enough space is the one that was named.
        work = self._parts.root / WORK / self.name
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work) as name:
            folder = Path(name)
            directory = self._config.directory
            remarks: tuple[str, ...] = ()
            if directory is None:
                train_tokenizer(self._sample(advance), self._config, folder)
                tokenizer = load_tokenizer(folder, self._config.split_special_tokens)
            else:
                tokenizer, remarks = self._copy(directory, folder)
            description = tokenizer.description()
            if description is None:
                reference: Reference = SentencePiece(folder / SENTENCEPIECE)
            else:
                path = outputs.path(DESCRIPTION)
                path.write_text(description, encoding="utf-8")
                reference = HuggingFace(path, self._config.split_special_tokens)
            self._check(tokenizer, reference)
            for file in tokenizer_files(folder):
                shutil.copyfile(file, outputs.path(f"{TOKENIZER}/{file.relative_to(folder)}"))
            worth = sum(part.characters for part in self._parts) >= _WORTH_CHOOSING
            return ProvidedTokenizer(
                digest=tokenizer_digest(tokenizer),
                vocab_size=tokenizer.vocab_size,
                eos_id=tokenizer.eos_id,
                sentencepiece=description is None,
                encoding=choose(reference)[0] if worth else unchosen(reference),
                remarks=remarks,
            ).model_dump()

    def _check(self, tokenizer: Tokenizer, reference: Reference) -> None:
        """Raise UserError where what is described is not the tokenizer that was loaded."""
        texts = [*PROBES, *spelled(tokenizer.special_tokens)]
        if first_difference(reference.encode(texts), ragged(tokenizer.encode_batch(texts))) is not None:
            raise UserError(
                f"{self._config.path or 'tokenizer'}: the tokenizer gives other ids once it is written as tokenizer.json and "
                "read again; save it by transformers' save_pretrained, and name that directory"
            )

    def _copy(self, directory: Path, folder: Path) -> tuple[Tokenizer, tuple[str, ...]]:
        """Write the given tokenizer into `folder`, and return the one there and what there is to remark on the given one."""
        split = self._config.split_special_tokens
        given = load_tokenizer(directory, split)
        if tokenizer_digest(given) != self._given:
            raise UserError(f"{directory}: is not the tokenizer that the folder was started with; put that back")
        given.write(folder)
        copied = load_tokenizer(folder, split)
        differs = difference(given, copied)
        if differs is None and given.front != copied.front:
            differs = f"the ids in front of a text are {list(given.front)} and {list(copied.front)}"
        if differs is not None:
            raise UserError(
                f"{directory}: transformers gives other ids when the tokenizer's files are read without the model's "
                f"config.json ({differs}); load it by AutoTokenizer and name what its save_pretrained writes"
            )
        return copied, given.remarks

    def _sample(self, advance: Advance) -> Iterator[str]:
        """Every n-th document to train on, the first among them: n is such that about `sample_characters` come together."""
        characters = sum(part.characters * self._trained_on(part).mean() for part in self._parts)
        stride = max(1, math.ceil(characters / self._config.sample_characters))
        before = 0
        for part in self._parts:
            kept = self._trained_on(part)
            number = before + np.cumsum(kept) - 1
            for _, text in self._parts.chosen(part, kept & (number % stride == 0)):
                advance(len(text))
                yield text
            before += int(kept.sum())
        if not before:
            raise UserError("corpora: no text is left to train a tokenizer on; give more text, or a tokenizer (path)")

    def _trained_on(self, part: DocumentPart) -> np.ndarray:
        return self._decisions.of(part) == KEPT_TRAIN
