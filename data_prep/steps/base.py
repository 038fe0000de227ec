"""What a step is."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from data_prep.text.document import Document
from pipeline.common.config import StrictModel

Share = Annotated[float, Field(ge=0, le=1)]


class Step(StrictModel):
    """One step: its fields are the options that a configuration gives, an instance is what a document goes through.

    It depends on the document alone, so that the output is the same at any number of processes. What is slow to load is
    loaded at the first document, not before: a configuration is read by every process.
    """

    name: ClassVar[str]
    """By which a configuration names it; each class gives its own, as `class Length(Step, name="length")`."""

    def __init_subclass__(cls, *, name: str, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls.name = name

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions by whose version the outcome may change: another one is another plan."""
        return ()

    @property
    def files(self) -> list[Path]:
        """Files that the outcome depends on; their content is part of the plan."""
        return []

    def check(self) -> None:
        """Raise UserError where the step cannot be carried out; nothing has been read then."""

    def fresh(self) -> "Step":
        """Return the step for the documents of one item: what it may remember of others' is not there."""
        return self

    def entry(self) -> dict[str, dict[str, Any]]:
        """Return the step as a configuration names it, all its options given."""
        return {self.name: self.model_dump(mode="json")}

    def __call__(self, document: Document) -> str | None:
        """Change the document in place; return why it is dropped (a few words, counted), or None where it stays."""
        raise NotImplementedError
