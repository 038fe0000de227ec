"""Libraries that encode as Hugging Face's do and take a fraction of its time, each for the kinds of tokenizer it is exact on.

Measured on 63,500 texts made to find faults: fastokens is exact on byte-level BPE and wrong on sentencepiece's BPE (it takes a
literal `<0x0A>` for the byte); splintr is exact on both and on unigram, takes twice fastokens' time, and is wrong on WordPiece;
nanotoken reads WordPiece alone, exactly. None is trusted for it: `choice.py` compares each with Hugging Face's first.
"""

import json
import os
from importlib.metadata import version
from typing import Any, ClassVar, Protocol

from data_prep.encoding.ragged import Ragged, from_bytes
from data_prep.tokenizers.environment import environment

# Each is read when the library starts its threads, at its first batch; a process of the preparation uses one core.
_THREADS = {"FASTOKENS_BPE_THREADS": "1", "RAYON_NUM_THREADS": "1"}
_STARTING = ["a " * 10_000] * 2
"""A batch for which a library starts its threads; splintr does without for 4,096 texts of a word."""


class Library(Protocol):
    """A library, ready to encode by one tokenizer; raises its own exceptions for a tokenizer that it does not read."""

    name: ClassVar[str]
    """As the package index calls it."""

    def __init__(self, described: str) -> None: ...

    def encode(self, texts: list[str]) -> Ragged:
        """Return the texts' ids, without those that frame a text."""
        ...


class Fastokens:
    """Byte-level BPE."""

    name: ClassVar[str] = "fastokens"

    def __init__(self, described: str) -> None:
        from fastokens import Tokenizer

        self._tokenizer = Tokenizer.from_json_str(described)

    def encode(self, texts: list[str]) -> Ragged:
        """Return the texts' ids."""
        return from_bytes(*self._tokenizer.encode_batch_flat(texts))


class Splintr:
    """BPE of both kinds, and unigram."""

    name: ClassVar[str] = "splintr-rs"
    _process: ClassVar[int | None] = None

    def __init__(self, described: str) -> None:
        # Its threads do not outlive a fork, and are waited for without end in the child.
        if Splintr._process not in (None, os.getpid()):
            raise RuntimeError("was loaded before this process was forked")
        Splintr._process = os.getpid()
        import splintr

        self._tokenizer = splintr.from_json_bytes(described.encode())

    def encode(self, texts: list[str]) -> Ragged:
        """Return the texts' ids."""
        return from_bytes(*self._tokenizer.encode_batch_flat(texts))


class Nanotoken:
    """WordPiece."""

    name: ClassVar[str] = "nanotoken"

    def __init__(self, described: str) -> None:
        from nanotoken import WordPieceTokenizer

        self._tokenizer = WordPieceTokenizer.from_json(described)

    def encode(self, texts: list[str]) -> Ragged:
        """Return the texts' ids."""
        ids, starts = self._tokenizer.encode_batch(texts, add_special_tokens=False, parallel=False)
        return from_bytes(ids.tobytes(), starts.tobytes())


LIBRARIES: dict[str, type[Library]] = {
    Fastokens.name: Fastokens,
    Splintr.name: Splintr,
    Nanotoken.name: Nanotoken,
}


def fitting(described: dict[str, Any]) -> list[str]:
    """Return the names of the libraries for a tokenizer that is described as tokenizer.json does, the best one first."""
    model = described["model"]
    if model["type"] == "WordPiece":
        return [Nanotoken.name]
    if model["type"] == "BPE" and not model.get("byte_fallback"):
        return [Fastokens.name, Splintr.name]
    return [Splintr.name] if model["type"] in ("BPE", "Unigram") else []


def bare(described: dict[str, Any], split_special_tokens: bool) -> dict[str, Any]:
    """Return the description without what frames, cuts or pads a text and, where they are text, without special tokens.

    Hugging Face's `encode_special_tokens` passes over the special ones among the added tokens, as if they were not there.
    """
    added = [token for token in described["added_tokens"] if not (split_special_tokens and token["special"])]
    return described | {"added_tokens": added, "post_processor": None, "truncation": None, "padding": None}


def left_out(described: dict[str, Any]) -> tuple[str, ...]:
    """Return what a library may read otherwise where it stands in a text that is not empty: unigram's unknown piece, spelled.

    A text that has it is encoded by Hugging Face's.
    """
    model = described["model"]
    unknown = model.get("unk_id") if model["type"] == "Unigram" else None
    return () if unknown is None else (model["vocab"][unknown][0],)


def load(name: str, described: dict[str, Any]) -> Library:
    """Return a library ready to encode, on one thread, by a tokenizer that is described as `bare` does.

    Raises ImportError where it is not installed, and the library's exceptions.
    """
    # What is set already stays.
    with environment({name: count for name, count in _THREADS.items() if name not in os.environ}):
        library = LIBRARIES[name](json.dumps(described, ensure_ascii=False))
        library.encode(_STARTING)
    return library


def installed(name: str) -> str | None:
    """Return the version of a package, None where there is none."""
    try:
        return version(name)
    except ImportError:
        return None
