"""Tokenizers behind one small face, from files or trained here.

Special tokens follow RoBERTa's use: a document ends with `eos`, and a masked-language-model window
opens with `cls`. GPT-2's vocabulary has one special token, BERT's calls them [CLS], [SEP], [MASK].
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import sentencepiece
from transformers import BertTokenizerFast, GPT2TokenizerFast, PreTrainedTokenizerFast

from data_prep.errors import UserError
from data_prep.files import file_digest

SENTENCEPIECE_FILE = "tokenizer.model"
_HUGGING_FACE_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer_config.json",
                       "special_tokens_map.json", "added_tokens.json")  # fmt: skip


class Tokenizer(Protocol):
    """What the pipeline needs of a tokenizer."""

    vocab_size: int
    """Largest id + 1, added tokens included."""
    eos_id: int
    cls_id: int | None
    mask_id: int | None
    special_ids: list[int]
    files: list[Path]
    """The files that it was read from, to be kept beside a model."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids, without special tokens."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Return the text that `ids` stand for."""
        ...


class SentencePieceTokenizer:
    """A sentencepiece model; one trained here has `<s>` (cls), `<pad>`, `</s>` (eos), `<unk>`, `<mask>`, then pieces."""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: not a sentencepiece model ({error})") from None
        self.vocab_size = self._processor.vocab_size()
        self.eos_id = self._processor.eos_id()
        self.cls_id = self._known(self._processor.bos_id())
        mask = self._processor.piece_to_id("<mask>")
        self.mask_id = None if mask == self._processor.unk_id() else mask
        self.special_ids = [i for i in range(self.vocab_size) if self._processor.is_control(i)]
        if self.eos_id < 0:
            raise UserError(f"{path}: the model has no </s>; train it with eos_id set, so that documents can end")

    @staticmethod
    def _known(index: int) -> int | None:
        return None if index < 0 else index

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids, without special tokens."""
        return self._processor.encode(texts)

    def decode(self, ids: list[int]) -> str:
        """Return the text that `ids` stand for."""
        return self._processor.decode(ids)


class HuggingFaceTokenizer:
    """A tokenizer of Hugging Face's, from tokenizer.json or from GPT-2's or BERT's vocabulary files."""

    def __init__(self, directory: Path) -> None:
        self.files = [directory / name for name in _HUGGING_FACE_FILES if (directory / name).is_file()]
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
        self.cls_id = self._tokenizer.cls_token_id
        self.mask_id = self._tokenizer.mask_token_id
        self.special_ids = sorted({eos, *self._tokenizer.all_special_ids})

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


def load_tokenizer(directory: Path) -> Tokenizer:
    """Return the tokenizer in `directory`; raises UserError where there is none."""
    if (directory / SENTENCEPIECE_FILE).is_file():
        return SentencePieceTokenizer(directory / SENTENCEPIECE_FILE)
    if any((directory / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        return HuggingFaceTokenizer(directory)
    raise UserError(
        f"{directory}: no tokenizer here; tokenizer.json, vocab.json and merges.txt, vocab.txt or {SENTENCEPIECE_FILE} would do"
    )


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """One hash over the tokenizer's files, for manifests."""
    return " ".join(f"{path.name}:{file_digest(path)}" for path in tokenizer.files)


def train_sentencepiece(texts: Iterable[str], vocab_size: int, path: Path) -> None:
    """Train a BPE model on `texts` and write it to `path`; the same texts give the same file.

    Raises UserError where the text is too small for the vocabulary.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.split("\n") if line.strip()),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            # RoBERTa's ids: a model of that family counts positions from behind its padding's, 1.
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            control_symbols=["<mask>"],
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"tokenizer.vocab_size: {vocab_size} does not fit the text ({reason})") from None
    path.write_bytes(model.getvalue())
