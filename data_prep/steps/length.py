"""Step `length`: documents that are too short or too long."""

from typing import Literal

from pydantic import model_validator

from data_prep.steps.base import Step
from data_prep.text.document import Document
from data_prep.text.rejects import TOO_LONG, TOO_SHORT
from pipeline.common.config import NonNegativeInt, PositiveInt


class Length(Step, name="length"):
    """Drop documents that are shorter or longer than is wanted."""

    min: NonNegativeInt = 1
    """A shorter document is dropped."""
    max: PositiveInt | None = None
    """A longer document is dropped; null: none is."""
    unit: Literal["characters", "words"] = "characters"
    """Words are what white space separates."""

    @model_validator(mode="after")
    def _in_order(self) -> "Length":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max: {self.max} is less than min: {self.min}; no document has such a length")
        return self

    def __call__(self, document: Document) -> str | None:
        """Return TOO_SHORT or TOO_LONG."""
        length = len(document.text) if self.unit == "characters" else len(document.text.split())
        if length < self.min:
            return TOO_SHORT
        return TOO_LONG if self.max is not None and length > self.max else None
