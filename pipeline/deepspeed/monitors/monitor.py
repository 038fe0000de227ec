"""One place to which a run's curves go, by a section of its own in DeepSpeed's JSON."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

Event = tuple[str, float, int]
"""The name of a curve, with the group before a slash; the value, and the step."""

TRAIN, EVAL = "train/", "eval/"
"""What the names of curves begin with."""


class Monitor:
    """A module beside this one, named as its section in `pipeline.recipe.ds_file.MONITORS`, has one as `MONITOR`."""

    package: ClassVar[str | None] = None
    """The Python package that it needs."""
    folder: ClassVar[str | None] = None
    """Where in the run directory it writes if the section names no folder; None where it writes no files."""
    settings: ClassVar[type[BaseModel]]
    """What judges the section."""

    writer_class: ClassVar[Callable[[Any], Any]]
    """DeepSpeed's monitor of the section, which is made by what `settings` has read."""

    def __init__(self, settings: Any, run_dir: Path) -> None:
        """Open it, by its section as `settings` has read it."""
        self.run_dir = run_dir
        self.writer = type(self).writer_class(settings)

    def write(self, events: Sequence[Event]) -> None:
        """Write some values; raises OSError where the disk is full."""
        self.writer.write_events(events)

    def cut_back(self, step: int) -> None:
        """Drop what was written of later steps, which will be taken again."""

    def repair(self) -> None:
        """Make whole what a full disk cut short."""

    def close(self) -> None:
        """Write what is still in memory; raises OSError where the disk is full."""

    def may_be_anothers(self, directory: str, step: int) -> bool:
        """Whether a folder may hold another run's curves: one that a person named, at a run's beginning."""
        return step == 0 and self.run_dir.resolve() not in Path(directory).resolve().parents
