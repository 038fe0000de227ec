"""Tokenizers behind one small face, from files: every part of the project loads them here.

A directory of Hugging Face's is loaded as transformers' AutoTokenizer loads it, a bare sentencepiece model by sentencepiece,
unless it is a Llama's or Mistral's, whose AutoTokenizer reads it.
What spells a special token in a text is text, and nothing is cut or padded.

Special tokens follow RoBERTa's use: a document ends with `eos`, a masked-language-model window opens with `cls`, and
`sep` parts two. GPT-2's vocabulary has one special token, BERT's calls them [CLS], [SEP], [MASK].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from data_prep.tokenizers.bare_sentencepiece import SentencePieceTokenizer
from data_prep.tokenizers.files import MODEL_CONFIG, has_tokenizer, is_bare_sentencepiece
from data_prep.tokenizers.meanings import Meanings
from data_prep.tokenizers.probes import PROBES, differing, spelled
from pipeline.common.config import read_json
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

_GENERATION_CONFIG = "generation_config.json"


class Tokenizer(Protocol):
    """What the pipeline needs of a tokenizer."""

    kind: str
    """The class of transformers that it is, or sentencepiece."""
    vocab_size: int
    """Largest id + 1, added tokens included."""
    eos_id: int
    sep_id: int
    """What parts two texts of one window; `eos` where nothing else does."""
    bos_id: int | None
    cls_id: int | None
    mask_id: int | None
    special_ids: list[int]
    special_tokens: list[str]
    """As they are spelled, in the order of `special_ids`."""
    front: tuple[int, ...]
    """What it puts in front of a text by itself, which `encode_batch` leaves out."""
    split_special_tokens: bool
    """Whether a special token that is spelled in a text is text."""
    remarks: tuple[str, ...]
    """What a person should know of how it was read."""
    directory: Path
    files: list[Path]
    """All that it was read from but the model's config.json, to be kept beside a model."""

    @property
    def hugging_face(self) -> PreTrainedTokenizerFast:
        """Transformers' own, which reads special tokens as this one; raises UserError where there is none."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return each text's ids, without special tokens."""

    def decode(self, ids: list[int]) -> str:
        """Return the text that `ids` stand for."""

    def token(self, number: int) -> str:
        """Return how the vocabulary spells an id."""

    def meanings(self) -> Meanings:
        """Return what each id stands for."""

    def description(self) -> str | None:
        """Return what encodes as tokenizer.json describes it; None where that is no library of Hugging Face's."""

    def write(self, folder: Path) -> None:
        """Write it into `folder`, to be the same whatever else lies there."""


def find_tokenizer(directory: Path, split_special_tokens: bool = True, *, for_text: bool = True) -> Tokenizer | None:
    """Return the tokenizer in `directory`, None where there is none.

    Raises UserError for one that does not load, whose ids are not those that its files stand for, or, where text is to be
    read by it (`for_text`), that makes special tokens of a text that spells them in spite of `split_special_tokens`.
    """
    if not has_tokenizer(directory):
        return None
    if is_bare_sentencepiece(directory):
        return SentencePieceTokenizer(directory, split_special_tokens)
    # transformers takes seconds to import, and of the processes that prepare text only one comes here.
    from data_prep.tokenizers.hugging_face import HuggingFaceTokenizer

    tokenizer = HuggingFaceTokenizer(directory, split_special_tokens)
    if for_text:
        tokenizer.check_special_tokens()
    return tokenizer


def load_tokenizer(directory: Path, split_special_tokens: bool = True, *, for_text: bool = True) -> Tokenizer:
    """Return the tokenizer in `directory`; raises UserError where there is none, and as `find_tokenizer` does."""
    tokenizer = find_tokenizer(directory, split_special_tokens, for_text=for_text)
    if tokenizer is None:
        raise UserError(
            f"{directory}: no tokenizer here; put one of these there: tokenizer.json; vocab.json with merges.txt; vocab.txt; "
            "tokenizer.model"
        )
    return tokenizer


def given_tokenizer(directory: Path, split_special_tokens: bool) -> Tokenizer:
    """Return the tokenizer of a directory that text is to be prepared with, held against the model's config.json there.

    Raises UserError as `load_tokenizer` does, and where config.json names another end of a text.
    """
    tokenizer = load_tokenizer(directory, split_special_tokens)
    path = directory / MODEL_CONFIG
    if not path.is_file():
        return tokenizer
    named = read_json(path, "copy the model again").get("eos_token_id")
    # A class's default that is no id of the vocabulary (GPT-2's 50256) names nothing.
    ends = [end for end in _listed(named) if isinstance(end, int) and 0 <= end < tokenizer.vocab_size]
    generation = directory / _GENERATION_CONFIG
    if ends and generation.is_file():
        # Chat models end a turn otherwise than a text, and list both there.
        ends += _listed(read_json(generation, "copy the model again").get("eos_token_id"))
    if ends and tokenizer.eos_id not in ends:
        raise UserError(
            f"{path}: eos_token_id is {named}, and the tokenizer beside it ends a text with id {tokenizer.eos_id}, "
            f"{tokenizer.token(tokenizer.eos_id)!r}; copy the directory, and correct one of the two in the copy"
        )
    return tokenizer


def _listed(named: Any) -> list[Any]:
    """What a key says that may hold one value or a list."""
    return named if isinstance(named, list) else [named]


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """One hash over the tokenizer's class and files, for manifests."""
    files = (f"{path.relative_to(tokenizer.directory)}:{file_digest(path)}" for path in tokenizer.files)
    return " ".join([tokenizer.kind, *files])


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
