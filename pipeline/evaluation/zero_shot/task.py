"""What a zero-shot task is: where its examples come from, the rows that a model reads of them, and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from pipeline.common.errors import UserError, one_line
from pipeline.common.files import file_digest, text_digest
from pipeline.evaluation.rows import Row, Sums

if TYPE_CHECKING:
    # Imports transformers, which no task's name needs.
    from pipeline.evaluation.encoding import Encoder

Example = TypeVar("Example")

_AMBIGUOUS = ("test.txt", "test.jsonl")
"""Names that do not identify a corpus by themselves, only within its folder."""


@dataclass(frozen=True, slots=True)
class Corpus(Generic[Example]):
    """One task's examples."""

    examples: list[Example]
    data: dict[str, Any]
    """What a score says of it: `source`, `digest`, `examples`, `note`."""
    settings: dict[str, Any]
    """How it was read: normalization, what is scored separately, detokenization."""

    def first(self, limit: int | None) -> Corpus[Example]:
        """Return the corpus of the first examples alone."""
        if limit is None or limit >= len(self.examples):
            return self
        note = f"the first {limit} of {len(self.examples)} examples"
        return Corpus(self.examples[:limit], self.data | {"examples": limit, "note": note}, self.settings)


@dataclass(frozen=True, slots=True)
class Reader:
    """How a model reads: its tokenizer, and the windows that it is given."""

    encoder: Encoder
    masked: bool
    """Whether it is a masked model."""
    window: int
    """Positions that are read at once."""
    stride: int
    """Tokens that each further window scores."""
    every: int
    """Masked models: every so-many-th token is scored."""
    title: str
    """Under which progress is shown."""


@dataclass(frozen=True, slots=True)
class Posed:
    """A task as it is put to a model."""

    rows: list[Row]
    metrics: Callable[[Sums], dict[str, float]]
    settings: dict[str, Any]
    """What a score says of it: windows, normalization."""
    data: dict[str, Any]
    """What a score says of the examples beside their corpus's own."""


class ZeroShotTask(Protocol[Example]):
    """A task that a model is scored on as it is; one file says all of it, and `registry.py` names it."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in recipes."""

    @property
    def causal_only(self) -> bool:
        """Whether it asks what comes next, which a masked model does not say."""

    def find(self, data: Sequence[Path] | None) -> Path | None:
        """Return the file of its examples, None where `data` is None and they come from the hub; raises UserError."""

    def read(self, data: Sequence[Path] | None) -> Corpus[Example]:
        """Return its examples: from the files below `data`, or where that is None from the hub; raises UserError."""

    def pose(self, corpus: Corpus[Example], reader: Reader) -> Posed:
        """Return the rows of a corpus and their metrics; raises UserError where an example does not fit a window."""


@dataclass(frozen=True)
class Published(Generic[Example]):
    """A set of examples that is known by name: files below a folder, or a data set on the hub."""

    name: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    """Names below one of the folders, or below the place itself."""
    hub: tuple[str, str | None]
    """Data set and configuration on the hub."""
    column: str
    read_file: Callable[[Path], list[str]]
    """A local file to the hub's rows."""
    examples: Callable[[list[str]], list[Example]]
    settings: dict[str, Any]
    revision: str | None = None

    causal_only: ClassVar[bool] = False

    def find(self, data: Sequence[Path] | None) -> Path | None:
        """Return the file, None where `data` is None; raises UserError naming what was looked for."""
        if data is None:
            return None
        for directory in data:
            if not directory.is_dir():
                raise UserError(f"{directory}: no such directory; name one with the corpora of the tasks")
        for directory in data:
            for path in self._candidates(directory):
                if path.is_file():
                    return path
        looked = ", ".join(f"{self.folders[0]}/{name}" for name in self.files)
        raise UserError(f"{', '.join(map(str, data))}: no file of {self.name} there; looked for {looked} and the like")

    def _candidates(self, directory: Path) -> Iterator[Path]:
        yield from (directory / folder / name for folder in self.folders for name in self.files)
        named = directory.resolve().name in self.folders
        yield from (directory / name for name in self.files if named or name not in _AMBIGUOUS)

    def read(self, data: Sequence[Path] | None) -> Corpus[Example]:
        """Return the examples; raises UserError naming what is missing or cannot be read."""
        path = self.find(data)
        rows = self._from_hub() if path is None else self.read_file(path)
        source = self.hub[0] if path is None else str(path)
        if not any(row.strip() for row in rows):
            raise UserError(f"{source}: holds no text; put the corpus of {self.name} there")
        digest = text_digest("\n".join(rows)) if path is None else file_digest(path)
        examples = self.examples(rows)
        data_record = {"source": source, "digest": digest, "examples": len(examples), "note": None}
        return Corpus(examples, data_record, self.settings)

    def _from_hub(self) -> list[str]:
        # Takes seconds to import, and local files are read without it.
        from datasets import load_dataset

        name, configuration = self.hub
        try:
            rows = load_dataset(name, configuration, split="test", revision=self.revision)
        except Exception as error:  # the library raises what its back ends raise
            raise UserError(
                f"{self.name}: {name} does not come from the hub ({type(error).__name__}: {one_line(error)}); name a folder "
                "with its files as --data (evaluation.data in a recipe)"
            ) from None
        return list(rows[self.column])


def read_text(path: Path) -> str:
    """Return a file's text; raises UserError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at its byte {error.start}); convert the file") from None
