"""Step `normalize`: one normal form, Unix line ends, no control characters, no outer white space."""

from typing import ClassVar, Literal

from data_prep.steps.base import Step
from data_prep.text.clean import clean
from data_prep.text.document import Document


class Normalize(Step):
    """Bring the text into a normal form of Unicode, without control characters and outer white space."""

    name: ClassVar[str] = "normalize"

    form: Literal["NFC", "NFKC"] = "NFC"
    """The normal form: NFC, or NFKC, which also replaces variants of characters by the common ones."""

    def __call__(self, document: Document) -> None:
        """Normalize the text."""
        document.text = clean(document.text, self.form)
