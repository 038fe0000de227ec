"""What each id of a tokenizer stands for in a text, in bytes, so that tokenizers of different kinds can be compared."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import sentencepiece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("bos", "eos", "cls", "sep", "mask", "pad", "unk")
"""What a special token may be for, as transformers names it."""

_BLANK = "▁"
"""How sentencepiece spells a blank."""
_SENTENCEPIECE, _BYTE_LEVEL = "sentencepiece", "byte-level"


@dataclass(frozen=True, slots=True)
class Token:
    """One id of a vocabulary."""

    spelling: str
    """As the vocabulary has it."""
    meaning: bytes | None
    """What it stands for in a text; None where that is not known, and of a special token."""
    named: bool = False
    """Whether it is special, or was added to the vocabulary whole: its spelling is its text."""
    fallback: bool = False
    """Whether it stands for a byte of what the vocabulary has no piece for."""


@dataclass(frozen=True, slots=True)
class Meanings:
    """A vocabulary's tokens and what they stand for."""

    kind: str
    """Within one kind an equal spelling is an equal meaning."""
    tokens: list[Token | None]
    """By id; None where the vocabulary has no token."""
    roles: Mapping[str, int]
    """The ids of ROLES, as far as there are any."""


def hugging_face_meanings(tokenizer: PreTrainedTokenizerFast) -> Meanings:
    """Return what the tokens of a Hugging Face tokenizer stand for.

    A byte-level one spells bytes (GPT-2 2019, 2.2), one after sentencepiece's way blanks, and WordPiece what goes on a word.
    In WordPiece a token that begins a word with a letter or digit stands for a blank and itself. Of other ways nothing is
    known but the spelling.
    """
    backend = tokenizer.backend_tokenizer
    described = json.loads(backend.to_str())
    kind, prefix = _kind(described)
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab(with_added_tokens=True)
    named = {role: getattr(tokenizer, f"{role}_token") for role in ROLES}
    roles = {role: vocabulary[token] for role, token in named.items() if token in vocabulary}
    special = {number for number, token in added.items() if token.special} | set(roles.values())
    tokens: list[Token | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    falls_back = bool(described["model"].get("byte_fallback"))
    for spelling, number in vocabulary.items():
        if number in special:
            tokens[number] = Token(spelling, None, named=True)
        elif number in added:
            tokens[number] = Token(spelling, spelling.encode(), named=True)
        elif kind == _BYTE_LEVEL:
            tokens[number] = Token(spelling, _bytes_of(spelling))
        elif kind == _SENTENCEPIECE:
            byte = _fallback(spelling) if falls_back else None
            text = spelling.replace(_BLANK, " ").encode()
            tokens[number] = Token(spelling, text if byte is None else byte, fallback=byte is not None)
        elif prefix is not None:
            tokens[number] = Token(spelling, _word_piece(spelling, prefix))
        else:
            tokens[number] = Token(spelling, None)
    return Meanings(kind, tokens, roles)


def sentencepiece_meanings(model: sentencepiece.SentencePieceProcessor, roles: Mapping[str, int]) -> Meanings:
    """Return what the pieces of a sentencepiece model stand for."""
    tokens: list[Token | None] = []
    for number in range(model.vocab_size()):
        spelling = model.id_to_piece(number)
        if model.is_control(number) or model.is_unknown(number):
            tokens.append(Token(spelling, None, named=True))
        elif model.is_byte(number):
            tokens.append(Token(spelling, _fallback(spelling), fallback=True))
        else:
            tokens.append(Token(spelling, spelling.replace(_BLANK, " ").encode()))
    return Meanings(_SENTENCEPIECE, tokens, roles)


def _kind(described: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the kind of a tokenizer.json's vocabulary, and of WordPiece what stands before the pieces that go on a word."""
    steps = [*_steps(described.get("decoder")), *_steps(described.get("pre_tokenizer"))]
    kinds = {step["type"] for step in steps}
    model = described["model"]
    if "ByteLevel" in kinds:
        return _BYTE_LEVEL, None
    if model["type"] == "WordPiece":
        return f"WordPiece {model['continuing_subword_prefix']}", model["continuing_subword_prefix"]
    spelled = {step.get("replacement") for step in steps if step["type"] == "Metaspace"} | {
        step["pattern"].get("String") for step in steps if step["type"] == "Replace" and step["content"] == " "
    }
    if spelled == {_BLANK}:
        return _SENTENCEPIECE, None
    return json.dumps([model["type"], steps], sort_keys=True), None


def _steps(described: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a pre-tokenizer or decoder, those of a sequence one by one."""
    if described is None:
        return
    if described["type"] != "Sequence":
        yield described
    for step in described.get("decoders", described.get("pretokenizers", ())):
        yield from _steps(step)


@cache
def _byte_letters() -> Mapping[str, int]:
    """The letter by which a byte-level vocabulary spells each byte: itself where it is printed, else one from 256 on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _bytes_of(spelling: str) -> bytes | None:
    letters = _byte_letters()
    return bytes(letters[letter] for letter in spelling) if all(letter in letters for letter in spelling) else None


def _fallback(spelling: str) -> bytes | None:
    """The byte of `<0x0A>`."""
    if len(spelling) != len("<0x0A>") or not (spelling.startswith("<0x") and spelling.endswith(">")):
        return None
    return bytes.fromhex(spelling[3:5])


def _word_piece(spelling: str, prefix: str) -> bytes:
    if prefix and spelling.startswith(prefix):
        return spelling.removeprefix(prefix).encode()
    # Punctuation and Chinese characters are words without a blank before them.
    begins = spelling[:1].isalnum() and not unicodedata.name(spelling[0], "").startswith("CJK")
    return f"{' ' * begins}{spelling}".encode()
