"""Checkpoints that are whole or absent: written aside, checked, renamed; `latest` names the newest, last of all."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from transformers import PretrainedConfig

from data_prep.errors import UserError
from data_prep.files import publish_directory, write_atomically, write_json
from pipeline.growth.sources import LATEST
from pipeline.growth.state import Source
from pipeline.growth.zero_checkpoint import PROGRESS, read_zero_checkpoint
from pipeline.training import distributed
from pipeline.training.engine import TrainedModel

_DOOMED = ".deleted"

_COUNTERS = ("global_steps", "global_samples", "skipped_steps")
_LOSS_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


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
    norms_weighted_until: int | None = None
    """Step of the run from which on the model's norms are stock; None where they are."""
    counters: dict[str, int] = field(default_factory=dict)
    """DeepSpeed's own, of this model's training."""
    loss_scale: dict[str, float] = field(default_factory=dict)
    """Where fp16's dynamic loss scale stands."""


class _RecordingEngine(TorchCheckpointEngine):
    """DeepSpeed's writer, which keeps a failed write to itself.

    Raised inside `save_checkpoint` it would leave the other ranks waiting in a barrier.
    """

    def __init__(self, replaced: TorchCheckpointEngine) -> None:
        self.name = replaced.name
        # The older format cannot be mapped.
        self.zipfile_serialization = True
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
        self.beside: list[Path] = []
        """Files that go into each checkpoint's folder: the tokenizer's."""

    def latest(self) -> Saved | None:
        """Return where the newest complete checkpoint stands, or None."""
        try:
            tag = (self._directory / LATEST).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        path = self._directory / tag / PROGRESS
        try:
            return Saved(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: not of this version's making ({error}); name another run_dir") from None
        except FileNotFoundError:
            raise UserError(
                f"{self._directory / LATEST}: names {tag}, which is not there; put the checkpoint back, or remove the run "
                "directory and begin again"
            ) from None

    def save(self, model: TrainedModel, saved: Saved) -> None:
        """Save the model, its optimizer and where it stands; a collective call.

        Raises UserError on every rank where a file could not be written; the last checkpoint stays.
        """
        tag, engine = _tag(saved.step), model.engine
        aside = tag + ".partial"
        saved = replace(saved, **engine_state(engine))
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
        distributed.on_first_rank(lambda: self._publish(aside, tag, model.config, saved))

    def open(self, saved: Saved) -> Source:
        """Return the model and the optimizer's state in the checkpoint that `saved` describes."""
        # Weighted norms are no hindrance: the run that goes on has them too.
        return read_zero_checkpoint(self._directory / _tag(saved.step))

    def _clear(self, name: str) -> None:
        shutil.rmtree(self._directory / name, ignore_errors=True)

    def _check(self, failure: str | None, aside: str) -> None:
        if failure is not None:
            shutil.rmtree(self._directory / aside, ignore_errors=True)
            raise UserError(
                f"{failure}: the checkpoint could not be written; make room and start the same command again, "
                f"which goes on from the last complete one"
            )

    def _publish(self, aside: str, tag: str, config: PretrainedConfig, saved: Saved) -> None:
        try:
            # So that the checkpoint can be read by itself.
            config.save_pretrained(self._directory / aside)
            for path in self.beside:
                shutil.copyfile(path, self._directory / aside / path.name)
            write_json(self._directory / aside / PROGRESS, asdict(saved))
            publish_directory(self._directory / aside, self._directory / tag)
            write_atomically(self._directory / LATEST, tag + "\n")
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


def engine_state(engine: DeepSpeedEngine) -> dict[str, Any]:
    """Return what a checkpoint says of the engine besides weights and moments: fields of Saved."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return {
        "counters": {name: getattr(engine, name) for name in _COUNTERS},
        "loss_scale": {name: getattr(scaler, name) for name in _LOSS_SCALE} if getattr(scaler, "dynamic", False) else {},
    }


def restore_engine(engine: DeepSpeedEngine, saved: Saved) -> None:
    """Set DeepSpeed's counters and fp16's dynamic loss scale to where a checkpoint's engine stood."""
    for name, value in saved.counters.items():
        setattr(engine, name, value)
    for name, value in saved.loss_scale.items():
        setattr(engine.optimizer.loss_scaler, name, value)


def _tag(step: int) -> str:
    return f"step-{step:08d}"
