"""Libraries that encode as Hugging Face's do and take a fraction of its time, each for the kinds of tokenizer it is exact on.

Measured on 63,500 texts made to find faults: fastokens is exact on byte-level BPE and wrong on sentencepiece's BPE (it takes a
literal `<0x0A>` for the byte); splintr is exact on both and on unigram, takes twice fastokens' time, and is wrong on WordPiece;
nanotoken reads WordPiece alone, exactly. None is trusted for it: `choice.py` compares each with Hugging Face's first.
"""

import json
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

from data_prep.encoding.ragged import Ragged, from_bytes
from data_prep.tokenizers.environment import environment

# Each is read when the library starts its threads, at its first batch; a process of the preparation uses one core.
_THREADS = {"FASTOKENS_BPE_THREADS": "1", "RAYON_NUM_THREADS": "1"}
_STARTING = ["a " * 10_000] * 2
"""A batch for which a library starts its threads; splintr does without for 4,096 texts of a word."""


Encode = Callable[[list[str]], Ragged]
"""Texts to their ids, without those that frame a text."""


def _fastokens(described: str) -> Encode:
    """Byte-level BPE."""
    from fastokens import Tokenizer

    encode = Tokenizer.from_json_str(described).encode_batch_flat
    return lambda texts: from_bytes(*encode(texts))


def _splintr(described: str) -> Encode:
    """BPE of both kinds, and unigram."""
    # Its threads do not outlive a fork, and are waited for without end in the child.
    if _splintr_process() != os.getpid():
        raise RuntimeError("was loaded before this process was forked")
    import splintr

    encode = splintr.from_json_bytes(described.encode()).encode_batch_flat
    return lambda texts: from_bytes(*encode(texts))


@cache
def _splintr_process() -> int:
    """The process that loaded splintr first."""
    return os.getpid()


def _nanotoken(described: str) -> Encode:
    """WordPiece."""
    from nanotoken import WordPieceTokenizer

    tokenizer = WordPieceTokenizer.from_json(described)

    def encode(texts: list[str]) -> Ragged:
        ids, starts = tokenizer.encode_batch(texts, add_special_tokens=False, parallel=False)
        return from_bytes(ids.tobytes(), starts.tobytes())

    return encode


FASTOKENS, SPLINTR, NANOTOKEN = "fastokens", "splintr-rs", "nanotoken"
LIBRARIES: dict[str, Callable[[str], Encode]] = {FASTOKENS: _fastokens, SPLINTR: _splintr, NANOTOKEN: _nanotoken}
"""By their names in the package index: what encodes by a described tokenizer; each raises its own exceptions for one that it
does not read."""


def fitting(described: dict[str, Any]) -> list[str]:
    """Return the names of the libraries for a tokenizer that is described as tokenizer.json does, the best one first."""
    model = described["model"]
    if model["type"] == "WordPiece":
        return [NANOTOKEN]
    if model["type"] == "BPE" and not model.get("byte_fallback"):
        return [FASTOKENS, SPLINTR]
    return [SPLINTR] if model["type"] in ("BPE", "Unigram") else []


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


def load(name: str, described: dict[str, Any]) -> Encode:
    """Return what encodes by a library, on one thread, and by a tokenizer that is described as `bare` does.

    Raises ImportError where it is not installed, and the library's exceptions.
    """
    # What is set already stays.
    with environment({name: count for name, count in _THREADS.items() if name not in os.environ}):
        encode = LIBRARIES[name](json.dumps(described, ensure_ascii=False))
        encode(_STARTING)
    return encode


def installed(name: str) -> str | None:
    """Return the version of a package, None where there is none."""
    try:
        return version(name)
    except ImportError:
        return None
