"""Which library has encoded what, for the manifest and for people."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from data_prep.encoding.choice import Choice


class PartEncoding(BaseModel):
    """By what a part was encoded."""

    library: str
    version: str | None
    compared: int = 0
    """Documents that were encoded by Hugging Face's too, and have the same ids."""
    refused: dict[str, str] = {}
    """The library that was to encode it, and why it did not."""


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
            by += f", its ids those of Hugging Face's on {choice.compared:,} stress texts and {self.compared:,} documents"
        return [*lines, by]


def encoding_of(choice: Choice, parts: Mapping[str, Any]) -> Encoding | None:
    """Return by what a preparation was encoded, given each part's PartEncoding; None where there is no part.

    A library that a part refused encodes none of them (`Tokenize` without `fast`).
    """
    if not parts:
        return None
    # An earlier version recorded nothing of a part that it finished: it had Hugging Face's alone.
    known = {name: PartEncoding.model_validate(part) for name, part in parts.items() if part is not None}
    for name, part in known.items():
        if part.refused:
            refused = {library: f"{reason} (part {name})" for library, reason in part.refused.items()}
            choice = Choice(library=part.library, version=part.version, refused=choice.refused | refused)
            break
    return Encoding(choice=choice, compared=sum(part.compared for part in known.values()))
