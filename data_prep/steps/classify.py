"""Step `classify`: documents by the score that a fastText classifier gives them.

The model's file is checked before fastText reads it, which takes a damaged file or ends the process.
"""

import mmap
import struct
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import model_validator

from data_prep.steps.base import Share, Step
from data_prep.text.document import Document
from pipeline.common.errors import UserError

_MAGIC = 793712314
_SUPERVISED = 3
_HEADER = struct.Struct("<2i12id3i2q")
"""Magic number and version; 12 settings and a rate; sizes of the dictionary: entries, words, labels; tokens, pruned n-grams."""
_MODEL, _ENTRIES, _PRUNED = 9, 15, 19
"""Places in it: what was trained, how many entries and pruned n-grams there are."""
_COUNT_AND_KIND = 9
_LABEL = 1
_PREFIX = "__label__"
_CENTROIDS = 256 * 4


class Classify(Step, name="classify"):
    """Give a document the probability of a label, and drop it where that is too low or too high.

    Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification" (arXiv:1607.01759), by a model of the user's, as
    DataComp-LM (arXiv:2406.11794) and FineWeb-Edu select text. fastText reads one line and stops at the word `</s>`: line ends
    and that word are read as blanks.
    """

    libraries: ClassVar[tuple[str, ...]] = ("fasttext-predict",)

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


def read_labels(path: Path) -> list[str]:
    """Return the labels, without `__label__`, of a classifier that fastText trained (.bin or .ftz).

    Raises UserError where there is no such file, it is no classifier, or it is not as long as its own sizes say.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content).labels()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; name the file of a fastText classifier") from None
    except (struct.error, ValueError) as error:
        reason = error if isinstance(error, _NoClassifierError) else "it is empty or breaks off"
        raise UserError(f"{path}: no fastText classifier: {reason}; copy it again, or name another") from None


class _NoClassifierError(ValueError):
    pass


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._place = 0

    def labels(self) -> list[str]:
        header = self._take(_HEADER.format)
        if header[0] != _MAGIC:
            raise _NoClassifierError("it does not begin as such a file does")
        if header[_MODEL] != _SUPERVISED:
            raise _NoClassifierError("it holds word vectors")
        labels: list[str] = []
        for _ in range(header[_ENTRIES]):
            end = self._content.find(b"\0", self._place)
            if not self._place <= end < len(self._content) - _COUNT_AND_KIND:
                raise _NoClassifierError("it breaks off")
            if self._content[end + _COUNT_AND_KIND] == _LABEL:
                labels.append(self._content[self._place : end].decode("utf-8", "replace").removeprefix(_PREFIX))
            self._place = end + 1 + _COUNT_AND_KIND
        self._place += 8 * max(header[_PRUNED], 0)
        quantized = self._skip_matrix(quantizable=True)
        self._skip_matrix(quantizable=quantized)
        if self._place != len(self._content):
            raise _NoClassifierError(f"it should have {self._place:,} bytes and has {len(self._content):,}")
        return labels

    def _take(self, form: str) -> tuple:
        values = struct.unpack_from(form, self._content, self._place)
        self._place += struct.calcsize(form)
        return values

    def _skip_matrix(self, quantizable: bool) -> bool:
        """Skip the sign of a quantized matrix and the matrix; return whether it is quantized."""
        (sign,) = self._take("<?")
        if not (sign and quantizable):
            rows, columns = self._take("<2q")
            self._place += 4 * rows * columns
            return False
        normed, rows, _, codes = self._take("<?2qi")
        self._place += codes
        self._skip_quantizer()
        if normed:
            self._place += rows
            self._skip_quantizer()
        return True

    def _skip_quantizer(self) -> None:
        dimensions, *_ = self._take("<4i")
        self._place += _CENTROIDS * dimensions
