"""Step `language`: documents in other languages than are wanted."""

from typing import Annotated, ClassVar

from pydantic import Field

from data_prep.steps.base import Share, Step
from data_prep.text.document import Document
from data_prep.text.language import PACKAGE, known_languages, language, model_file
from data_prep.text.rejects import OTHER_LANGUAGE, UNCERTAIN_LANGUAGE
from pipeline.common.errors import UserError


class Language(Step, name="language"):
    """Drop documents in other languages; write the language and the model's score into `language` and `language_score`.

    The model is fastText's lid.176.
    """

    libraries: ClassVar[tuple[str, ...]] = (PACKAGE,)

    keep: list[Annotated[str, Field(pattern="^[a-z]{2,3}$")]] = []
    """Codes (ISO 639) of the languages that are kept; all where none is named."""
    min_score: Share = 0.0
    """The model's probability below which a document is dropped as uncertain (FineWeb drops those below .65)."""

    def check(self) -> None:
        """Raise UserError for a language that the model does not know, and where the model is not there."""
        model_file()
        for code in self.keep:
            if code not in known_languages():
                known = " ".join(known_languages())
                raise UserError(f"step language: {code!r} is not among those that the model knows: {known}")

    def __call__(self, document: Document) -> str | None:
        """Return OTHER_LANGUAGE or UNCERTAIN_LANGUAGE."""
        code, score = language(document.text)
        score = round(score, 4)  # not what another processor's last digits decide
        document.columns |= {"language": code, "language_score": score}
        if self.keep and code not in self.keep:
            return OTHER_LANGUAGE
        return UNCERTAIN_LANGUAGE if score < self.min_score else None
