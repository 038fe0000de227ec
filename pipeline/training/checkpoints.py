"""Checkpoints that are whole or absent: written aside, checked, renamed; `latest` names the newest, last of all."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from data_prep.errors import UserError
from data_prep.files import publish_directory, write_atomically, write_json
from pipeline.training import distributed

_LATEST = "latest"
_PROGRESS = "progress.json"
_DOOMED = ".deleted"


@dataclass(frozen=True, slots=True)
class Saved:
    """Where a run stands: what a checkpoint says beside DeepSpeed's own files."""

    model: str
    """Which model was being trained: "source" or "target"."""
    step: int
    """Steps of the run so far, the source's included."""
    samples: int
    tokens: int
    seconds: float
    """Seconds spent in steps."""
    flops_model: dict[str, int]
    flops_executed: dict[str, int]
    world_size: int


class _RecordingEngine(TorchCheckpointEngine):
    """DeepSpeed's writer, which keeps a failed write to itself.

    Raised inside `save_checkpoint` it would leave the other ranks waiting in a barrier.
    """

    def __init__(self, replaced: TorchCheckpointEngine) -> None:
        self.name = replaced.name
        self.zipfile_serialization = replaced.zipfile_serialization
        self.failure: str | None = None

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        """Write one file, or note why not."""
        try:
            super().save(state_dict, path)
        except (OSError, RuntimeError) as error:
            self.failure = self.failure or f"{path}: {' '.join(str(error).split())[:200]}"


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._keep = keep

    def latest(self) -> Saved | None:
        """Return where the newest complete checkpoint stands, or None."""
        try:
            tag = (self._directory / _LATEST).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        try:
            return Saved(**json.loads((self._directory / tag / _PROGRESS).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(
                f"{self._directory / _LATEST}: names {tag}, which is not there; put the checkpoint back, or remove the run "
                "directory and begin again"
            ) from None

    def save(self, engine: DeepSpeedEngine, saved: Saved) -> None:
        """Save the engine and where it stands; a collective call.

        Raises UserError on every rank where a file could not be written; the last checkpoint stays.
        """
        tag = _tag(saved.step)
        aside = tag + ".partial"
        distributed.on_first_rank(lambda: self._clear(aside))
        writer = _RecordingEngine(engine.checkpoint_engine)
        engine.checkpoint_engine, replaced = writer, engine.checkpoint_engine
        # DeepSpeed copies two scripts beside every checkpoint; on a full disk that raises on one rank alone.
        engine._copy_recovery_script = lambda save_path: None
        try:
            engine.save_checkpoint(str(self._directory), tag=aside, save_latest=False)
        finally:
            engine.checkpoint_engine = replaced
        distributed.on_every_rank(lambda: self._check(writer.failure, aside))
        distributed.on_first_rank(lambda: self._publish(aside, tag, saved))

    def load(self, engine: DeepSpeedEngine, saved: Saved) -> None:
        """Load the checkpoint that `saved` describes into the engine; a collective call."""
        engine.load_checkpoint(str(self._directory), tag=_tag(saved.step))

    def _clear(self, name: str) -> None:
        shutil.rmtree(self._directory / name, ignore_errors=True)

    def _check(self, failure: str | None, aside: str) -> None:
        if failure is not None:
            shutil.rmtree(self._directory / aside, ignore_errors=True)
            raise UserError(
                f"{failure}: the checkpoint could not be written; make room and start the same command again, "
                f"which goes on from the last complete one"
            )

    def _publish(self, aside: str, tag: str, saved: Saved) -> None:
        try:
            write_json(self._directory / aside / _PROGRESS, asdict(saved))
            publish_directory(self._directory / aside, self._directory / tag)
            write_atomically(self._directory / _LATEST, tag + "\n")
        except OSError as error:
            self._check(f"{self._directory / tag}: {error.strerror}", aside)
        self._remove_old(tag)

    def _remove_old(self, newest: str) -> None:
        tags = sorted(path.name for path in self._directory.glob("step-*") if path.name != newest)
        doomed = [tag for tag in tags if not tag[-1].isdigit()]
        old = [tag for tag in tags if tag[-1].isdigit()]
        for tag in old[: max(0, len(old) - (self._keep - 1))]:
            # Renamed first: half a checkpoint under its own name would look whole.
            os.replace(self._directory / tag, self._directory / (tag + _DOOMED))
            doomed.append(tag + _DOOMED)
        for name in doomed:
            shutil.rmtree(self._directory / name, ignore_errors=True)


def _tag(step: int) -> str:
    return f"step-{step:08d}"
