"""GLUE's tasks: what their files and the hub's data sets look like (Wang et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.common.errors import UserError
from pipeline.evaluation.tuning.examples import TaskData, Text, digest_of, find, load_hub, split
from pipeline.evaluation.tuning.task import Grid, Problem

if TYPE_CHECKING:
    # Slow to import, and no task's name needs them.
    import datasets

    from pipeline.evaluation.tuning.model import Pretrained

_HUB = "nyu-mll/glue"
_ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class Glue:
    """One of GLUE's tasks."""

    folder: str
    columns: tuple[str, str | None, str]
    """Text, its pair and the label, by the names in the files' first lines."""
    hub_columns: tuple[str, str | None] | None = None
    """Text and pair on the hub, where the label is `label`; None where they are called so there too."""
    labels: tuple[str, ...] | None = ("0", "1")
    """As the files spell them, in the order of their numbers; None for scores."""
    metrics: tuple[str, ...] = ("accuracy",)
    """The first chooses epochs and grid points."""
    dev: tuple[tuple[str, str], ...] = (("", "dev"),)
    """What a part's metrics end in, and its file's stem. The first part chooses."""
    header: tuple[str, ...] | None = None
    """Of files that have no first line of names."""
    leaves_out: bool = False
    """Whether lines with too few columns are left out: as GLUE spreads QQP, some are broken."""

    grid: ClassVar[Grid] = Grid()

    @property
    def name(self) -> str:
        """The folder's name, in lower case."""
        return self.folder.lower().replace("-", "")

    def problem(self, data: TaskData[Text], pretrained: Pretrained, max_length: int) -> Problem:
        """Bring examples, model and longest input together; raises UserError where they do not fit each other."""
        from pipeline.evaluation.tuning.classification import Classification

        return Classification(self, data, pretrained, max_length)

    def read(self, data: Sequence[Path]) -> TaskData[Text]:
        """Return the examples in the folders, else the hub's; raises UserError where a file or line cannot be used."""
        stems = ("train", *(stem for _, stem in self.dev))
        found = {stem: find(data, f"{self.folder}/{stem}.tsv") for stem in stems}
        paths = {stem: path for stem, path in found.items() if path is not None}
        if not paths:
            return self._from_hub(data)
        missing = [stem for stem in stems if stem not in paths]
        folder = next(iter(paths.values())).parent
        if missing and len(stems) > 2:
            raise UserError(f"{folder}: {missing[0]}.tsv is not there; put it beside {next(iter(paths))}.tsv")
        notes: list[str] = []
        texts = {stem: self.table(path, notes) for stem, path in paths.items()}
        if missing:
            ((stem, path),) = paths.items()
            to_train, to_score, note = split(list(enumerate(texts[stem])), itemgetter(0), path, "lines")
            texts = {"train": [text for _, text in to_train], self.dev[0][1]: [text for _, text in to_score]}
            notes.append(note)
        source = ", ".join(f"{self.folder}/{path.name}" for path in paths.values())
        parts = {suffix: texts[stem] for suffix, stem in self.dev}
        return TaskData(texts["train"], parts, source, digest_of(list(paths.values())), tuple(notes))

    def table(self, path: Path, notes: list[str]) -> list[Text]:
        """Return a file's examples, and note how many lines were left out.

        Quotes mean nothing in GLUE's files. Raises UserError naming the line that is no example.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error}); save it so") from None
        rows = [(number, line.rstrip("\r").split("\t")) for number, line in enumerate(lines, start=1) if line.strip()]
        header = list(self.header) if self.header is not None else rows.pop(0)[1] if rows else []
        if not rows:
            raise UserError(f"{path}: holds no examples; put the file there as GLUE spreads it")
        for column in filter(None, self.columns):
            if column not in header:
                raise UserError(f"{path}: line 1 names no column {column!r}; put the file there as GLUE spreads it")
        text, pair, label = self.columns
        places = header.index(text), None if pair is None else header.index(pair), header.index(label)
        whole = [(number, row) for number, row in rows if len(row) >= len(header)]
        if self.leaves_out and whole and len(whole) < len(rows):
            notes.append(f"{len(rows) - len(whole)} lines of {path.name} with too few columns left out")
            rows = whole
        return [self._text(row, places, len(header), f"{path}: line {number}") for number, row in rows]

    def _text(self, row: list[str], places: tuple[int, int | None, int], columns: int, where: str) -> Text:
        if len(row) < columns:
            raise UserError(f"{where} has {len(row)} columns of {columns}; correct or remove it")
        text, pair, label = places
        return Text(row[text], None if pair is None else row[pair], self._label(row[label], where))

    def _label(self, label: str, where: str) -> float:
        if self.labels is not None:
            if label not in self.labels:
                raise UserError(f"{where} has no label ({label!r}); use one of {', '.join(self.labels)}")
            return self.labels.index(label)
        try:
            return float(label)
        except ValueError:
            raise UserError(f"{where} has no label ({label!r}); use a number") from None

    def _from_hub(self, data: Sequence[Path]) -> TaskData[Text]:
        wanted = f"{self.folder}/train.tsv and {self.dev[0][1]}.tsv"
        splits = ["train", *(stem.replace("dev", "validation") for _, stem in self.dev)]
        loaded, digest = load_hub(self.name, wanted, data, splits, _HUB, self.name)
        train, *parts = map(self._hub_part, loaded)
        dev = dict(zip((suffix for suffix, _ in self.dev), parts, strict=True))
        return TaskData(train, dev, f"{_HUB}/{self.name}", digest)

    def _hub_part(self, part: datasets.Dataset) -> list[Text]:
        text, pair = self.hub_columns or self.columns[:2]
        rows: Any = part
        return [Text(row[text], None if pair is None else row[pair], row["label"]) for row in rows]


_TASKS = (
    Glue("SST-2", ("sentence", None, "label")),
    Glue("MRPC", ("#1 String", "#2 String", "Quality"), ("sentence1", "sentence2"), metrics=("accuracy", "f1")),
    Glue("CoLA", ("sentence", None, "label"), metrics=("matthews",), header=("source", "label", "mark", "sentence")),
    Glue("RTE", ("sentence1", "sentence2", "label"), labels=_ENTAILMENT),
    Glue("STS-B", ("sentence1", "sentence2", "score"), labels=None, metrics=("pearson", "spearman")),
    Glue("QNLI", ("question", "sentence", "label"), labels=_ENTAILMENT),
    Glue("QQP", ("question1", "question2", "is_duplicate"), metrics=("accuracy", "f1"), leaves_out=True),
    Glue(
        "MNLI",
        ("sentence1", "sentence2", "gold_label"),
        ("premise", "hypothesis"),
        labels=("entailment", "neutral", "contradiction"),
        dev=(("_matched", "dev_matched"), ("_mismatched", "dev_mismatched")),
    ),
)
GLUE = {task.name: task for task in _TASKS}
"""By name."""
