"""Which library encodes: the first that gives Hugging Face's ids on all stress texts, else Hugging Face's own.

The choice is made once for a tokenizer and the versions that are installed. Then some documents of each part are encoded by
both; where one differs, Hugging Face's encodes all parts. So the ids are Hugging Face's as far as is compared, and no plan's
digest depends on the library.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from pydantic import BaseModel

from data_prep.encoding.libraries import LIBRARIES, bare, fitting, installed, left_out, load
from data_prep.encoding.ragged import Ragged, first_difference, interleaved
from data_prep.encoding.reference import HuggingFace, Reference
from data_prep.encoding.stress import stress_texts
from pipeline.common.errors import one_line

_SHOWN = 60


class Choice(BaseModel):
    """The library that encodes a preparation, or a part of it, and what became of those that do not."""

    library: str
    """Its package."""
    version: str | None
    compared: int = 0
    """Stress texts, or documents of a part, of which it gives Hugging Face's ids; 0 where it is Hugging Face's own."""
    refused: dict[str, str] = {}
    """Of each library that was tried before, why it is not taken."""


class UnfitError(Exception):
    """A library gives other ids than Hugging Face's, or none; says which and why."""


class Fast:
    """A library on one tokenizer, with Hugging Face's for texts that it is known to read otherwise."""

    def __init__(self, name: str, reference: HuggingFace) -> None:
        """Raises UnfitError where the library is not there, or does not read the tokenizer."""
        self._reference = reference
        self._left_out = left_out(reference.described)
        with _unfit_where_it_fails():
            self._library = load(name, bare(reference.described, reference.split_special_tokens))

    def encode(self, texts: list[str]) -> Ragged:
        """Return the texts' ids; raises UnfitError where the library fails."""
        fit = [bool(text) and not any(piece in text for piece in self._left_out) for text in texts]
        if all(fit):
            return self._encode(texts)
        fast = self._encode([text for text, fits in zip(texts, fit, strict=True) if fits])
        rest = self._reference.encode([text for text, fits in zip(texts, fit, strict=True) if not fits])
        return interleaved(fast, rest, np.array(fit))

    def _encode(self, texts: list[str]) -> Ragged:
        with _unfit_where_it_fails():
            found = self._library(texts)
        if len(found.lengths) != len(texts) or found.lengths.sum() != len(found.ids):
            raise UnfitError(f"gives ids of {len(found.lengths)} texts for {len(texts)}")
        return found


@contextmanager
def _unfit_where_it_fails() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except ImportError as error:
        raise UnfitError(f"cannot be imported ({one_line(error)})") from None
    except BaseException as error:  # a panic in Rust is no Exception
        raise UnfitError(f"fails ({one_line(error)})") from None


def choose(reference: Reference) -> tuple[Choice, Fast | None]:
    """Return the choice for a tokenizer, and the library ready to encode, None where it is the reference itself."""
    refused: dict[str, str] = {}
    if isinstance(reference, HuggingFace):
        texts = stress_texts(reference.added, reference.vocabulary, reference.decode)
        right = reference.encode(texts)
        for name in fitting(reference.described):
            try:
                fast = Fast(name, reference)
                compare(texts, fast.encode(texts), right)
            except UnfitError as error:
                refused[name] = f"{installed(name) or 'not installed'}: {error}"
            else:
                return Choice(library=name, version=installed(name), compared=len(texts), refused=refused), fast
    return unchosen(reference, refused), None


def unchosen(reference: Reference, refused: dict[str, str] | None = None) -> Choice:
    """Return the choice of the library whose ids count."""
    return Choice(library=reference.name, version=installed(reference.name), refused=refused or {})


def reopen(choice: Choice, reference: Reference) -> tuple[Choice, Fast | None]:
    """Return a choice that another process made, and its library ready to encode.

    It is made again where the library does not open here, or is of a version that was not compared.
    """
    if choice.library not in LIBRARIES:
        return choice, None
    try:
        if installed(choice.library) == choice.version and isinstance(reference, HuggingFace):
            return choice, Fast(choice.library, reference)
    except UnfitError:
        pass
    return choose(reference)


def compare(texts: list[str], ids: Ragged, right: Ragged) -> None:
    """Raise UnfitError, naming the first text, where a text's ids are not the right ones."""
    place = first_difference(ids, right)
    if place is not None:
        text = texts[place]
        shown = repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}, shortened here"
        raise UnfitError(f"gives other ids than Hugging Face's tokenizers for the text {shown}")


class Encoding(BaseModel):
    """By what a preparation was encoded."""

    choice: Choice
    compared: int
    """Documents of all parts that were encoded by Hugging Face's too, and have the same ids."""

    def lines(self) -> list[str]:
        """Return what to print."""
        choice = self.choice
        lines = [f"{name} does not encode: {reason}" for name, reason in choice.refused.items()]
        by = f"encoded by {choice.library} {choice.version}"
        if choice.compared:
            compared = f"{choice.compared:,} stress texts and {self.compared:,} documents"
            by += f", with the ids of Hugging Face's tokenizer on {compared}"
        return [*lines, by]


def encoding_of(choice: Choice, parts: Mapping[str, Any]) -> Encoding | None:
    """Return by what a preparation was encoded, given what encoded each part; None where there is no part.

    A library that a part refused encodes none of them (`Tokenize` without `fast`).
    """
    if not parts:
        return None
    # An earlier version recorded nothing of a part that it finished: it had Hugging Face's alone.
    known = {name: Choice.model_validate(part) for name, part in parts.items() if part is not None}
    for name, part in known.items():
        if part.refused:
            refused = {library: f"{reason} (part {name})" for library, reason in part.refused.items()}
            choice = Choice(library=part.library, version=part.version, refused=choice.refused | refused)
            break
    return Encoding(choice=choice, compared=sum(part.compared for part in known.values()))
