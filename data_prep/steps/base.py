"""What a step is."""

from typing import ClassVar

from pydantic import ConfigDict

from data_prep.config import StrictModel
from data_prep.text.document import Document


class Step(StrictModel):
    """One step: its fields are the options that a configuration gives, an instance is what a document goes through.

    It depends on the document alone, so that the output is the same at any number of processes. What is slow to load is
    loaded at the first document, not before: a configuration is read by every process.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    """By which a configuration names it."""

    def __call__(self, document: Document) -> str | None:
        """Change the document in place; return why it is dropped (a few words, counted), or None where it stays."""
        raise NotImplementedError
