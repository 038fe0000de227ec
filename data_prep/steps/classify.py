"""Step `classify`: documents by the score that a fastText classifier gives them."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import model_validator

from data_prep.steps.base import Share, Step
from data_prep.steps.classifier_file import read_labels
from data_prep.text.document import Document
from pipeline.common.errors import UserError


class Classify(Step):
    """Give a document the probability of a label, and drop it where that is too low or too high.

    Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification" (arXiv:1607.01759), by a model of the user's, as
    DataComp-LM (arXiv:2406.11794) and FineWeb-Edu select text. fastText reads one line and stops at the word `</s>`: line ends
    and that word are read as blanks.
    """

    name: ClassVar[str] = "classify"

    model: str
    """A file that fastText trained: .bin, or .ftz if it is quantized."""
    label: str
    """Of the model's labels, the one whose probability counts; with or without `__label__`."""
    min_score: Share | None = None
    """A document whose label is less probable is dropped."""
    max_score: Share | None = None
    """A document whose label is more probable is dropped."""
    column: str | None = None
    """A column that the probability is written to."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> "Classify":
        if self.min_score is None and self.max_score is None and self.column is None:
            raise ValueError("name one of `min_score`, `max_score` and `column`: without one of them the score has no effect")
        return self

    @property
    def libraries(self) -> tuple[str, ...]:
        """The library that applies the model."""
        return ("fasttext-predict",)

    @property
    def files(self) -> list[Path]:
        """The model's file."""
        return [Path(self.model)]

    def check(self) -> None:
        """Raise UserError where the model is missing, damaged or no classifier, or has no such label."""
        labels = read_labels(Path(self.model))
        if self._label not in labels:
            known = ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")
            raise UserError(f"{self.model}: has no label {self._label!r}; its labels are {known}")

    def __call__(self, document: Document) -> str | None:
        """Write the score, and return that it drops the document."""
        line = document.text.encode("utf-8", "replace").decode().replace("\n", " ")
        while "</s>" in line:
            line = line.replace("</s>", " ")
        labels, scores = self._classifier.predict(line, k=-1)
        # In float32 the largest probability may be a little more than 1.
        score = min(dict(zip(labels, scores, strict=True)).get(f"__label__{self._label}", 0.0), 1.0)
        if self.column is not None:
            document.columns[self.column] = score
        if self.min_score is not None and score < self.min_score:
            return f"{self.name}: low {self._label}"
        if self.max_score is not None and score > self.max_score:
            return f"{self.name}: high {self._label}"
        return None

    @property
    def _label(self) -> str:
        return self.label.removeprefix("__label__")

    @cached_property
    def _classifier(self) -> Any:
        import fasttext

        return fasttext.load_model(self.model)
