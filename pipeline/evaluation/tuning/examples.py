"""Examples of a task as they were read, and how they are found, split and thinned out."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from pipeline.common.errors import UserError, one_line
from pipeline.common.files import file_digest, text_digest

if TYPE_CHECKING:
    import datasets

Example = TypeVar("Example")

_SEED = 0
"""Of splits and selections: they are the same whatever the seeds of the trainings."""
_TRAIN_SHARE = 0.8


class Text(NamedTuple):
    """A text, or two, and its label."""

    text: str
    pair: str | None
    label: float
    """A class's number, or a score."""


class Question(NamedTuple):
    """A question about a passage, and where its answers stand there."""

    id: str
    article: str
    question: str
    context: str
    answers: tuple[tuple[int, str], ...]
    """First characters and texts."""


@dataclass(frozen=True)
class TaskData(Generic[Example]):
    """A task's examples and where they are from."""

    train: Sequence[Example]
    dev: Mapping[str, Sequence[Example]]
    """By what the names of a part's metrics end in: "" where there is one part."""
    source: str
    digest: str
    notes: tuple[str, ...] = ()

    def limited(self, max_train: int | None, max_eval: int | None) -> "TaskData[Example]":
        """Return the task with so many examples, drawn at random once and for all."""
        notes = list(self.notes)
        train = _drawn(self.train, max_train, "training examples", notes)
        dev = {
            name: _drawn(part, max_eval, f"development examples{name.replace('_', ' ')}", notes)
            for name, part in self.dev.items()
        }
        return replace(self, train=train, dev=dev, notes=tuple(notes))

    @property
    def description(self) -> dict[str, Any]:
        """What a score says of its data."""
        return {
            "source": self.source,
            "digest": self.digest,
            "examples": sum(len(part) for part in self.dev.values()),
            "train_examples": len(self.train),
            "note": "; ".join(self.notes) or None,
        }


def _drawn(examples: Sequence[Example], count: int | None, what: str, notes: list[str]) -> Sequence[Example]:
    if count is None or count >= len(examples):
        return examples
    notes.append(f"{count} of {len(examples)} {what}")
    return [examples[index] for index in sorted(random.Random(_SEED).sample(range(len(examples)), count))]


def find(data: Sequence[Path], *patterns: str) -> Path | None:
    """Return the first file that fits a pattern in one of the folders or at most two levels below; None where none does."""
    for root in data:
        for above in ("", "*/", "*/*/"):
            for pattern in patterns:
                for path in sorted(root.glob(above + pattern)):
                    return path
    return None


def digest_of(paths: Sequence[Path]) -> str:
    """One digest of several files."""
    return text_digest(" ".join(file_digest(path) for path in paths))


def split(
    examples: Sequence[Example], group: Callable[[Example], Any], path: Path, groups: str
) -> tuple[list[Example], list[Example], str]:
    """Share examples out into ones to train on and ones to score, whole groups to either; return a note beside them.

    Raises UserError where there is one group.
    """
    names = list(dict.fromkeys(map(group, examples)))
    if len(names) < 2:
        raise UserError(
            f"{path}: cannot be split to train on a part of it ({len(names)} of {groups}); put the train file beside"
        )
    random.Random(_SEED).shuffle(names)
    chosen = set(names[: min(len(names) - 1, max(1, round(len(names) * _TRAIN_SHARE)))])
    note = f"train part: {_TRAIN_SHARE:.0%} of the {groups} of {path.name}, scored are the others"
    train = [example for example in examples if group(example) in chosen]
    return train, [example for example in examples if group(example) not in chosen], note


def load_hub(
    task: str, wanted: str, data: Sequence[Path], splits: Sequence[str], *name: str
) -> "tuple[list[datasets.Dataset], str]":
    """Return the splits of the hub's data set of that name and configuration, and one digest of them.

    Raises UserError, which names the files to put there.
    """
    import datasets  # slow to import, and seldom needed

    try:
        loaded = datasets.load_dataset(*name)
    except Exception as error:  # the library raises what its network stack does
        below = f"below {', '.join(map(str, data))}" if data else "since no --data folder is given"
        raise UserError(
            f"{task}: {wanted} are not there {below}, and the hub's {'/'.join(name)} is out of reach "
            f"({type(error).__name__}: {one_line(error)}); name the folder that holds them with --data"
        ) from None
    return [loaded[split] for split in splits], " ".join(loaded[split]._fingerprint for split in splits)
