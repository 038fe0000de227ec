"""Step `language`: documents in other languages than are wanted."""

from typing import Annotated, ClassVar

from pydantic import Field

from data_prep.errors import UserError
from data_prep.steps.base import Step
from data_prep.text.document import Document
from data_prep.text.language import known_languages, language
from data_prep.text.rejects import OTHER_LANGUAGE


class Language(Step):
    """Drop documents in other languages; write the language into the column `language`."""

    name: ClassVar[str] = "language"

    keep: Annotated[list[Annotated[str, Field(pattern="^[a-z]{2,3}$")]], Field(min_length=1)]
    """Codes (ISO 639) of the languages that are kept."""

    def check(self) -> None:
        """Raise UserError for a language that cannot be told."""
        for code in self.keep:
            if code not in known_languages():
                known = " ".join(sorted(known_languages()))
                raise UserError(f"step language: {code!r} is not among those that can be told: {known}")

    def __call__(self, document: Document) -> str | None:
        """Return OTHER_LANGUAGE."""
        document.columns["language"] = language(document.text)
        return None if document.columns["language"] in self.keep else OTHER_LANGUAGE
