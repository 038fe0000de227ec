"""DeepSpeed's monitors, opened for a run and not for an engine, by their sections of the JSON."""

import csv
import io
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
from deepspeed.monitor.monitor import CometMonitor, TensorBoardMonitor, WandbMonitor, csvMonitor
from pydantic import BaseModel

from pipeline.common.errors import UserError
from pipeline.common.files import read_bytes, write_atomically

Event = tuple[str, float, int]
"""The name of a curve, with the group before a slash; the value, and the step."""

TRAIN, EVAL = "train/", "eval/"
"""What the names of curves begin with."""


class Monitor:
    """What writes a run's curves to one place."""

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
        self.run_dir, self.writer = run_dir, type(self).writer_class(settings)

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


class CsvFiles(Monitor):
    """CSV files, one a curve."""

    folder = "csv"
    settings = CSVConfig
    writer_class = csvMonitor

    def cut_back(self, step: int) -> None:
        """Drop the rows of later steps; raises UserError where a file is no curve."""
        if not self.may_be_anothers(self.writer.log_dir, step):
            for path in self._curves():
                _cut_back(path, step)
        # DeepSpeed's monitor writes a header for each file that it has not written to itself.
        self.writer.filenames = [path.stem for path in Path(self.writer.log_dir).glob("*.csv")]

    def repair(self) -> None:
        """Drop a last row that was cut short; a file that is left with nothing gets its header once more."""
        for path in self._curves():
            with open(path, "r+b") as file:
                whole = file.read().rfind(b"\n") + 1
                file.truncate(whole)
            if whole == 0 and path.stem in self.writer.filenames:
                self.writer.filenames.remove(path.stem)

    def _curves(self) -> list[Path]:
        """The files that monitors write."""
        own = (TRAIN.replace("/", "_"), EVAL.replace("/", "_"))
        return [path for path in Path(self.writer.log_dir).glob("*.csv") if path.name.startswith(own)]


def _cut_back(path: Path, step: int) -> None:
    """Drop the rows of later steps, and a last row that a kill cut short; raises UserError where the file is no curve."""
    text = io.StringIO()
    try:
        whole = read_bytes(path).decode().rpartition("\n")[0]
        header, *rows = csv.reader(io.StringIO(whole)) if whole else [[]]
        csv.writer(text).writerows([header, *(row for row in rows if row and int(row[0]) <= step)])
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a curve of steps and values ({error}); put it back, or move it away") from None
    write_atomically(path, text.getvalue())


class TensorBoard(Monitor):
    """TensorBoard."""

    package = "tensorboard"
    folder = "tensorboard"
    settings = TensorBoardConfig
    writer_class = TensorBoardMonitor

    def cut_back(self, step: int) -> None:
        """Write what SummaryWriter(purge_step=...) does, which DeepSpeed's monitor has no way to ask for."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        summaries = self.writer.summary_writer
        if not self.may_be_anothers(summaries.log_dir, step):
            again = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
            summaries.file_writer.add_event(again)

    def close(self) -> None:
        """Write what is still in memory; raises OSError where the disk is full."""
        self.writer.summary_writer.close()


class Wandb(Monitor):
    """Weights & Biases: one run there for all models of a run, however often that is started.

    It takes no step twice and shows the first. What a run that goes on takes again are the same values, but where the guard had
    it go back.
    """

    package = "wandb"
    settings = WandbConfig
    writer_class = WandbMonitor

    def __init__(self, settings: Any, run_dir: Path) -> None:
        path = run_dir / "wandb" / "run_id"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, secrets.token_hex(4) + "\n")
        # So that W&B goes on with the run that it knows, in the run directory; what the environment says comes first.
        os.environ.setdefault("WANDB_DIR", str(run_dir))
        os.environ.setdefault("WANDB_NAME", run_dir.resolve().name)
        os.environ.setdefault("WANDB_RUN_ID", read_bytes(path).decode(errors="replace").strip())
        os.environ.setdefault("WANDB_RESUME", "allow")
        super().__init__(settings, run_dir)

    def close(self) -> None:
        """End the run there."""
        import wandb

        wandb.finish()


class Comet(Monitor):
    """Comet."""

    package = "comet_ml"
    settings = CometConfig
    writer_class = CometMonitor


MONITORS: dict[str, type[Monitor]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "csv_monitor": CsvFiles,
    "comet": Comet,
}
"""By section."""
