"""Checkpoints that are whole or absent: written under another name, checked, renamed; at last `latest` names the newest."""

import copy
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

import torch
from transformers import PretrainedConfig

from pipeline.common.errors import UserError, one_line
from pipeline.common.files import publish_directory, read_bytes, write_atomically, write_json
from pipeline.deepspeed.loss_scale import counters_and_scale
from pipeline.deepspeed.saving import saving_by
from pipeline.flops.ledger import Ledger
from pipeline.growth.deepspeed_files import missing_files
from pipeline.growth.integrity import Digest, HashedFile, damage, seal, sealed
from pipeline.growth.sources import LATEST
from pipeline.growth.state import Source
from pipeline.growth.zero_checkpoint import PROGRESS, read_zero_checkpoint
from pipeline.recipe import CheckpointingConfig
from pipeline.runs.records import ProgressRecord, RunRecord, read_record
from pipeline.training import distributed
from pipeline.training.directory.snapshot import on_host
from pipeline.training.engine import TrainedModel

logger = logging.getLogger(__name__)

_DOOMED = ".deleted"
_TAG = re.compile(r"step-(\d{8,})")


@dataclass(slots=True)
class TrainState:
    """How far a run has come: what a checkpoint says beside DeepSpeed's own files."""

    phase: int = 0
    """How often the model that was being trained had been grown in this run: 0 is the source."""
    step: int = 0
    """Steps of the run so far, the source's included."""
    samples: dict[str, int] = field(default_factory=dict)
    """Samples taken of each data mix."""
    tokens: int = 0
    seconds: float = 0.0
    """Seconds spent in steps."""
    ledger: Ledger = field(default_factory=Ledger)
    """The FLOPs so far."""
    rewinds: int = 0
    """Times that the run has gone back to a checkpoint of its own accord."""
    norms_weighted_until: int | None = None
    """Step of the run from which on the model's norms are stock; None where they are."""
    expert_loads: list[list[int]] | None = None
    """How often each expert of each layer with experts was chosen in the last step; None of a dense model."""
    counters: dict[str, int] = field(default_factory=dict)
    """DeepSpeed's own, of this model's training."""
    loss_scale: dict[str, float] = field(default_factory=dict)
    """Where fp16's dynamic loss scale stands."""
    run: RunRecord | None = None
    """Whose the checkpoint is; None of one that an older version made."""

    @property
    def tag(self) -> str:
        """The folder of the checkpoint."""
        return f"step-{self.step:08d}"

    def copy(self, **changes: Any) -> "TrainState":
        """Return a state that later steps do not change, with some values of its own."""
        return replace(self, samples=dict(self.samples), ledger=copy.deepcopy(self.ledger), **changes)


class _Writer:
    """Writes one checkpoint: hashes what it writes, and keeps a failure to itself.

    Raised inside `save_checkpoint` it would leave the other ranks waiting in a barrier. `later`: what is to be written is
    copied, and written by `write`, on any thread.
    """

    def __init__(self, directory: Path, *, later: bool) -> None:
        self.failure: str | None = None
        self.digests: dict[str, Digest] = {}
        self._directory = directory
        self._later = later
        self._copies: list[tuple[dict[str, Any], str]] = []

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        """Write one file, or note why not; or note what it will hold."""
        if not self._later:
            self._write(state_dict, path)
            return
        try:
            self._copies.append((on_host(state_dict), path))
        except Exception as error:
            self._failed(path, error)

    def write(self) -> None:
        """Write what has been copied."""
        while self._copies and self.failure is None:
            self._write(*self._copies.pop())
        self._copies.clear()

    def _write(self, state: dict[str, Any], path: str) -> None:
        try:
            file = HashedFile(Path(path))
            try:
                # The older format cannot be mapped.
                torch.save(state, cast(IO[bytes], file), _use_new_zipfile_serialization=True)
            finally:
                digest = file.close()
        except Exception as error:
            # Whatever it is: a thread that ends with it would leave a checkpoint that looks written.
            self._failed(path, error)
        else:
            self.digests[Path(path).relative_to(self._directory).as_posix()] = digest

    def _failed(self, path: str, error: Exception) -> None:
        reason = (isinstance(error, OSError) and error.strerror) or one_line(f"{type(error).__name__} {error}")
        self.failure = self.failure or f"{path}: {reason}"


@dataclass(frozen=True, slots=True)
class _Pending:
    """A checkpoint that is being written."""

    writer: _Writer
    config: PretrainedConfig
    saved: TrainState
    zero_stage: int
    thread: threading.Thread | None


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, directory: Path, config: CheckpointingConfig) -> None:
        self._directory = directory
        self._config = config
        self._pending: _Pending | None = None
        self.run: RunRecord | None = None
        """What each checkpoint says of its run."""
        self.beside: Callable[[Path], None] = lambda _: None
        """Writes what goes into each checkpoint's folder beside the model: the tokenizer."""
        self.last: TrainState | None = None
        """Where the newest checkpoint stands that is known to be whole."""

    def newest(self, until: int | None = None) -> TrainState | None:
        """Return what `newest_whole` would, by this process alone; of the checkpoints up to a step where `until` names one."""
        tags = [tag for tag in self._tags() if until is None or _step(tag) <= until]
        return self._newest(tags, lambda tag: damage(self._directory / tag), self._read)

    def adopt(self, origin: Path, saved: TrainState) -> None:
        """Take another run's checkpoint, whole and in `origin`, as one of this run's; one rank's work.

        `saved` is what it then says, of this run. Raises OSError where it cannot be written.
        """
        partial, path = self._directory / (saved.tag + ".partial"), self._directory / saved.tag
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(origin, partial)
        write_json(partial / PROGRESS, asdict(saved))
        # What was damaged on the way is to be found when it is read: the other files stay what they were found to be.
        seal(partial, {name: digest for name, digest in sealed(origin).items() if name != PROGRESS})
        publish_directory(partial, path)
        write_atomically(self._directory / LATEST, saved.tag + "\n")

    def newest_whole(self) -> TrainState | None:
        """Return where the newest whole checkpoint stands, or None where there is none of any kind; a collective call.

        Every file is read and compared with its digest, each rank reading its share of them. Logs which file of which
        newer checkpoint is damaged; raises UserError naming a file of each where none is whole.
        """

        def fault_on_any_rank(tag: str) -> str | None:
            return distributed.first_found(damage(self._directory / tag, distributed.rank(), distributed.world_size()))

        tags = distributed.on_first_rank(self._tags)
        self.last = self._newest(tags, fault_on_any_rank, lambda tag: distributed.on_first_rank(lambda: self._read(tag)))
        return self.last

    @staticmethod
    def _newest(tags: list[str], fault_of: Callable[[str], str | None], read: Callable[[str], TrainState]) -> TrainState | None:
        damaged: list[str] = []
        for tag in tags:
            fault = fault_of(tag)
            if fault is None:
                for other in damaged:
                    logger.info(f"a checkpoint is damaged ({other}); {tag} is taken, the newest whole one")
                return read(tag)
            damaged.append(fault)
        if damaged:
            faults = "; ".join(damaged)
            raise UserError(
                f"every checkpoint is damaged ({faults}); put one back, or remove the run directory and start again"
            )
        return None

    def save(self, model: TrainedModel, saved: TrainState, *, must: bool) -> bool:
        """Save the model, its optimizer and where it stands; a collective call. Returns whether that went well.

        Where it cannot be written a warning says so, its folder is removed, and the last one stays. Where there `must` be
        one (at the end, or when asked to stop), UserError is raised on every rank instead, and the checkpoint is on disk
        when this returns. Where there need not and saving is asynchronous it is started, and `finish` returns how it went.
        """
        self.finish()
        engine, partial = model.engine, self._directory / (saved.tag + ".partial")
        later = self._config.asynchronous and not must
        of_engine = counters_and_scale(engine)
        saved = replace(saved, run=self.run, counters=of_engine["counters"], loss_scale=of_engine["loss_scale"])
        distributed.on_first_rank(lambda: shutil.rmtree(partial, ignore_errors=True))
        writer = _Writer(partial, later=later)
        with saving_by(engine, writer.save):
            engine.save_checkpoint(str(self._directory), tag=partial.name, save_latest=False)
        thread = threading.Thread(target=writer.write, daemon=True, name="checkpoint") if later else None
        self._pending = _Pending(writer, model.config, saved, engine.zero_optimization_stage(), thread)
        if thread is None:
            return self.finish(must=must)
        thread.start()
        return True

    @property
    def newest_saved(self) -> TrainState:
        """Where the newest checkpoint stands, once there is one."""
        assert self.last is not None, "a model is saved when its training ends"
        return self.last

    @property
    def written(self) -> bool:
        """Whether a checkpoint is being saved whose files on this rank are written; once they are on all, `finish` it."""
        thread = None if self._pending is None else self._pending.thread
        return thread is not None and not thread.is_alive()

    def finish(self, *, must: bool = False) -> bool:
        """Wait for the checkpoint that is being saved, if one is, and publish it; a collective call.

        Returns and raises as `save` does. To be called at the latest when nothing is trained any more.
        """
        if self._pending is None:
            return True
        pending, self._pending = self._pending, None
        if pending.thread is not None:
            pending.thread.join()
        outcomes = distributed.gathered((pending.writer.failure, pending.writer.digests))
        failure = next((failure for failure, _ in outcomes if failure is not None), None)
        if failure is None:
            digests = {name: digest for _, digests in outcomes for name, digest in digests.items()}
            failure = distributed.on_first_rank(lambda: self._publish(pending, digests))
        if failure is None:
            self.last = pending.saved
            untidy = distributed.on_first_rank(lambda: self._remove_old(pending.saved.tag))
            if untidy is not None:
                logger.warning(f"{untidy}: older checkpoints could not be removed")
            return True
        partial = self._directory / (pending.saved.tag + ".partial")
        distributed.on_first_rank(lambda: shutil.rmtree(partial, ignore_errors=True))
        if must:
            raise UserError(
                f"{failure}: the checkpoint could not be written; free disk space and start the same command again "
                "to continue from the last complete one"
            )
        logger.warning(
            f"{failure}: the checkpoint of step {pending.saved.step} could not be written; free disk space for the next one"
        )
        return False

    def open(self, saved: TrainState) -> Source:
        """Return the model and the optimizer's state in the checkpoint that `saved` describes, found whole before."""
        # Weighted norms are no hindrance: the run that goes on has them too.
        return read_zero_checkpoint(self._directory / saved.tag)

    def _tags(self) -> list[str]:
        """The checkpoints that are there, or should be, the newest first."""
        tags = {path.name for path in self._directory.glob("step-*") if path.is_dir()}
        latest = self._directory / LATEST
        if os.path.lexists(latest):
            try:
                tags.add(read_bytes(latest).decode(errors="replace").strip())
            except OSError as error:
                raise UserError(f"{latest}: {error.strerror}; remove it, the next checkpoint writes it again") from None
        return sorted(filter(_TAG.fullmatch, tags), key=_step, reverse=True)

    def _read(self, tag: str) -> TrainState:
        path = self._directory / tag / PROGRESS
        progress = read_record(path, ProgressRecord, "put the checkpoint back, or remove its folder")
        if progress is None:
            raise UserError(f"{path}: no such file; put the checkpoint back, or remove its folder")
        try:
            return TrainState(**cast(dict[str, Any], progress | {"ledger": Ledger.from_json(progress["ledger"])}))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: was not written by this version ({error}); name another run_dir") from None

    def _publish(self, pending: _Pending, digests: dict[str, Digest]) -> str | None:
        """Make what the ranks have written a checkpoint; return why that could not be done, if it could not."""
        tag = pending.saved.tag
        partial, path = self._directory / (tag + ".partial"), self._directory / tag
        for name in missing_files(digests, pending.zero_stage, distributed.world_size()):
            return f"{partial / name}: not written by its rank"
        try:
            for name, digest in digests.items():
                # Seen from here: a folder that each machine has for itself would never be whole.
                if not (partial / name).is_file() or (partial / name).stat().st_size != digest.size:
                    return (
                        f"{partial / name}: written by its rank and not here; {self._directory} must be shared by all machines"
                    )
            # So that the checkpoint can be read by itself.
            pending.config.save_pretrained(partial)
            self.beside(partial)
            write_json(partial / PROGRESS, asdict(pending.saved))
            seal(partial, digests)
            self._invalidate(path)
            publish_directory(partial, path)
            write_atomically(self._directory / LATEST, tag + "\n")
        except OSError as error:
            return f"{path}: {error.strerror}"
        return None

    def _invalidate(self, path: Path) -> None:
        """Take the checkpoint's name away, if it is there: half of one under its own name would look whole."""
        if path.exists():
            shutil.rmtree(path.with_name(path.name + _DOOMED), ignore_errors=True)
            os.replace(path, path.with_name(path.name + _DOOMED))

    def _remove_old(self, newest: str) -> str | None:
        """Remove what is neither among the newest nor to be kept for good; return why that could not be done, if so.

        Steps beyond the newest are of damaged checkpoints, before which the run has started again.
        """
        try:
            earlier = sorted((tag for tag in self._tags() if _step(tag) < _step(newest)), key=_step)
            kept = {newest, *earlier[max(0, len(earlier) - (self._config.keep - 1)) :]}
            if self._config.keep_every is not None:
                kept |= {tag for tag in earlier if _step(tag) % self._config.keep_every == 0}
            for tag in self._tags():
                if tag not in kept:
                    self._invalidate(self._directory / tag)
            for path in self._directory.glob("step-*"):
                if path.name not in kept:
                    shutil.rmtree(path, ignore_errors=True)
        except OSError as error:
            return f"{error.filename or self._directory}: {error.strerror}"
        return None


def _step(tag: str) -> int:
    return int(tag.removeprefix("step-"))
