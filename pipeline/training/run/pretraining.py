"""One run from text to a grown, trained model: data, source, growth, stages, summary."""

import logging
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.files import write_json
from pipeline.recipe import Recipe
from pipeline.runs.records import SummaryRecord
from pipeline.training import distributed
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.loop.context import LoopContext
from pipeline.training.loop.steps import RewindError
from pipeline.training.loop.tasks import Tasks
from pipeline.training.monitoring.watchdog import Watchdog
from pipeline.training.run import resume
from pipeline.training.run.branching import branch_off
from pipeline.training.run.context import RunContext
from pipeline.training.run.finish import summarize
from pipeline.training.run.model_phases import train_models
from pipeline.training.run.summary import render
from pipeline.training.signals import StopRequest

logger = logging.getLogger(__name__)


class Run:
    """A recipe under a DeepSpeed configuration, in its run directory."""

    def __init__(self, recipe: Recipe, ds_config: dict[str, Any], stop: StopRequest, branch_from: Path | None = None) -> None:
        """`branch_from` is the directory of a run with whose steps this one begins, where it has no checkpoint yet."""
        self._recipe = recipe
        self._ds_config = ds_config
        self._stop = stop
        self._branch_from = branch_from
        self._directory = RunDirectory(Path(recipe.run_dir))
        self._checkpoints = Checkpoints(self._directory.checkpoints, recipe.checkpointing)

    def execute(self) -> None:
        """Do what is left of the run, and print its summary; a collective call.

        Raises UserError where the input is wrong, Stopped where the run was asked to stop.
        """
        with ExitStack() as stack:
            distributed.on_first_rank(lambda: resume.hold(self._directory, stack))
            try:
                summary = self._execute()
            except UserError:
                if distributed.rank() == 0:
                    self._directory.abandon()
                raise
            logger.info(render(summary))

    def _execute(self) -> SummaryRecord:
        """Return the run's summary, after doing what is left of the run."""
        recipe, directory = self._recipe, self._directory
        distributed.on_every_rank(directory.check_shared)
        saved, origin = self._checkpoints.newest_whole(), self._branch_from
        if saved is None and origin is not None:
            ranks = distributed.world_size()
            distributed.on_first_rank(lambda: branch_off(origin, recipe, self._ds_config, directory, ranks))
            saved = self._checkpoints.newest_whole()
        remarks = distributed.on_first_rank(lambda: directory.check(recipe, self._ds_config, saved))
        done = distributed.on_first_rank(lambda: resume.finished(directory, recipe, saved))
        if done is not None and resume.is_whole(directory, done, saved):
            return done
        # Of how the run goes on, which a finished one does not.
        for remark in remarks:
            logger.info(remark)
        run = resume.begin(recipe, self._ds_config, directory, self._checkpoints, saved)
        with run.prepared.watch.from_step(0 if saved is None else saved.step):
            summary = self._carry_out(run, saved)
        distributed.on_first_rank(lambda: write_json(directory.summary, summary))
        return summary

    def _carry_out(self, run: RunContext, saved: TrainState | None) -> SummaryRecord:
        """Do what is left, going back where the guard says so; return the summary."""
        prepared, recipe = run.prepared, run.recipe
        origin = None if prepared.given is None else prepared.given.directory
        tasks = Tasks(recipe, prepared.data.tokenizer)
        state = resume.restored(run.directory, origin, saved)
        while True:
            try:
                with (
                    closing(resume.open_records(run, state)) as records,
                    Watchdog(60 * recipe.guard.stall_minutes, state.step) as watchdog,
                ):
                    of_run = recipe, prepared.training_plan, prepared.mixes, prepared.watch, tasks, self._stop
                    loop = LoopContext(*of_run, run.checkpoints, watchdog, records, state)
                    return summarize(run, loop, train_models(run, loop, saved))
            except RewindError as rewind:
                run.checkpoints.finish()
                saved, rewinds = run.checkpoints.last, state.rewinds
                state = resume.restored(run.directory, origin, saved)
                state = resume.rewound(run.directory, state, recipe.guard.rewinds, rewinds, rewind)
