"""Tokenizers behind one small face, from files.

Special tokens follow RoBERTa's use: a document ends with `eos`, a masked-language-model window opens with `cls`, and
`sep` parts two. GPT-2's vocabulary has one special token, BERT's calls them [CLS], [SEP], [MASK].
"""

from pathlib import Path
from typing import Protocol

import sentencepiece
from transformers import BertTokenizerFast, GPT2TokenizerFast, PreTrainedTokenizerFast

from data_prep.errors import UserError
from data_prep.files import file_digest
from data_prep.tokenizer_probes import PROBES, differing, spelled

SENTENCEPIECE_FILE = "tokenizer.model"
_HUGGING_FACE_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer_config.json",
                       "special_tokens_map.json", "added_tokens.json")  # fmt: skip


class Tokenizer(Protocol):
    """What the pipeline needs of a tokenizer."""

    vocab_size: int
    """Largest id + 1, added tokens included."""
    eos_id: int
    sep_id: int
    """What parts two texts of one window; `eos` where nothing else does."""
    cls_id: int | None
    mask_id: int | None
    special_ids: list[int]
    special_tokens: list[str]
    """As they are spelled."""
    files: list[Path]
    """The files that it was read from, to be kept beside a model."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids, without special tokens."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Return the text that `ids` stand for."""
        ...


class SentencePieceTokenizer:
    """A sentencepiece model; its `<s>` is cls, its `</s>` both eos and sep."""

    def __init__(self, path: Path) -> None:
        self.files = [path, *_hugging_face_files(path.parent)]
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: not a sentencepiece model ({error})") from None
        self.vocab_size = self._processor.vocab_size()
        self.eos_id = self._processor.eos_id()
        self.sep_id = self.eos_id
        self.cls_id = self._processor.bos_id() if self._processor.bos_id() >= 0 else None
        masks = [self._processor.piece_to_id(name) for name in ("<mask>", "[MASK]")]
        self.mask_id = next((mask for mask in masks if mask != self._processor.unk_id()), None)
        self.special_ids = [i for i in range(self.vocab_size) if self._processor.is_control(i)]
        self.special_tokens = [self._processor.id_to_piece(i) for i in self.special_ids]
        if self.eos_id < 0:
            raise UserError(f"{path}: the model has no </s>; train it with eos_id set, so that documents can end")

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids, without special tokens."""
        # Preparation has a process for each core.
        return self._processor.encode(texts, num_threads=1)

    def decode(self, ids: list[int]) -> str:
        """Return the text that `ids` stand for."""
        return self._processor.decode(ids)


class HuggingFaceTokenizer:
    """A tokenizer of Hugging Face's, from tokenizer.json or from GPT-2's or BERT's vocabulary files."""

    def __init__(self, directory: Path) -> None:
        self.files = _hugging_face_files(directory)
        self._tokenizer = self._load(directory)
        backend = self._tokenizer.backend_tokenizer
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        eos = self._tokenizer.eos_token_id
        if eos is None:
            eos = self._tokenizer.sep_token_id
        if eos is None:
            eos = backend.token_to_id("<|endoftext|>")
        if eos is None:
            raise UserError(f"{directory}: the tokenizer has no end-of-document token (eos or sep)")
        self.eos_id = eos
        self.sep_id = eos if self._tokenizer.sep_token_id is None else self._tokenizer.sep_token_id
        self.cls_id = self._tokenizer.cls_token_id
        self.mask_id = self._tokenizer.mask_token_id
        self.special_ids = sorted({eos, *self._tokenizer.all_special_ids})
        self.special_tokens = [self._tokenizer.convert_ids_to_tokens(token) for token in self.special_ids]

    @staticmethod
    def _load(directory: Path) -> PreTrainedTokenizerFast:
        def has(name: str) -> bool:
            return (directory / name).is_file()

        try:
            if has("tokenizer.json"):
                return PreTrainedTokenizerFast.from_pretrained(directory)
            if has("vocab.json"):
                return GPT2TokenizerFast(str(directory / "vocab.json"), str(directory / "merges.txt"))
            return BertTokenizerFast(str(directory / "vocab.txt"))
        except Exception as error:  # the tokenizers library raises plain Exception for files it cannot use
            raise UserError(f"{directory}: the tokenizer does not load ({' '.join(str(error).split())})") from None

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids, without special tokens."""
        encodings = self._tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: list[int]) -> str:
        """Return the text that `ids` stand for."""
        return self._tokenizer.decode(ids)


def _hugging_face_files(directory: Path) -> list[Path]:
    return [directory / name for name in _HUGGING_FACE_FILES if (directory / name).is_file()]


def find_tokenizer(directory: Path) -> Tokenizer | None:
    """Return the tokenizer in `directory`, None where there is none; raises UserError for one that does not load."""
    if (directory / SENTENCEPIECE_FILE).is_file():
        return SentencePieceTokenizer(directory / SENTENCEPIECE_FILE)
    if any((directory / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        return HuggingFaceTokenizer(directory)
    return None


def load_tokenizer(directory: Path) -> Tokenizer:
    """Return the tokenizer in `directory`; raises UserError where there is none."""
    tokenizer = find_tokenizer(directory)
    if tokenizer is None:
        raise UserError(
            f"{directory}: no tokenizer here; tokenizer.json, vocab.json and merges.txt, vocab.txt or {SENTENCEPIECE_FILE} "
            "would do"
        )
    return tokenizer


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """One hash over the tokenizer's files, for manifests."""
    return " ".join(f"{path.name}:{file_digest(path)}" for path in tokenizer.files)


def difference(one: Tokenizer, other: Tokenizer) -> str | None:
    """Return where two tokenizers give other ids, in words to put behind their names; None where they agree.

    Compared are what they make of PROBES and of the special tokens of both, and the ids of eos, sep, cls and mask.
    """
    for name in ("eos", "sep", "cls", "mask"):
        mine, theirs = (getattr(tokenizer, f"{name}_id") for tokenizer in (one, other))
        if mine != theirs:
            return f"{name} is {mine} and {theirs}"
    texts = [*PROBES, *spelled(list(dict.fromkeys(one.special_tokens + other.special_tokens)))]
    return differing(texts, one.encode_batch(texts), other.encode_batch(texts))
