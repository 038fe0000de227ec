"""A run that begins with another run's steps: it takes a checkpoint of that one as its own, and goes on from there."""

import logging
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.common.config import validate
from pipeline.common.errors import UserError
from pipeline.common.files import write_json
from pipeline.common.logs import without_messages
from pipeline.recipe import GROWN_STAGE, UNITS, Recipe
from pipeline.runs import JsonLines, RunPaths
from pipeline.runs.records import DsConfigRecord, EvaluationRecord, RunRecord, ScoreRecord, StepRecord
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.directory.recorded_settings import RecordedSettings, differing, differing_whole
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.ds_config import same_run
from pipeline.training.monitoring.monitors import without_monitors
from pipeline.training.plan.training_plan import StagePlan
from pipeline.training.preparation.preparation import Planned, PlannedOnText, preview_run

logger = logging.getLogger(__name__)

_BY_RATE = ("schedule", "warmup_steps")
"""Keys of a stage that change a step by its learning rate alone, which is compared itself."""


def common_steps(one: Planned, other: Planned) -> tuple[int, str]:
    """Return how many steps two runs have in common from the first on, and the key in which they then differ.

    Of runs that do not differ: the steps of the shorter one. The text that steps read is not compared.
    """
    whole = differing_whole(one.recipe, other.recipe)
    if whole:
        return 0, whole[0]
    steps, phase = 0, 0
    for mine, its in zip(one.training_plan.stages, other.training_plan.stages, strict=False):
        for number in range(phase + 1, mine.phase + 1):
            key = _differing_growth(one, other, number)
            if key is not None:
                return steps, key
        phase = mine.phase
        key = "phase" if mine.phase != its.phase else next(iter(differing(_settings(mine), _settings(its))), None)
        if key is not None:
            return steps, f"stages.{mine.stage.name}.{key}"
        end = min(mine.end, its.end)
        rates = (run.training_plan.rate_factors[mine.begin : end] for run in (one, other))
        (unlike,) = np.nonzero(np.not_equal(*rates))
        if unlike.size:
            return mine.begin + int(unlike[0]), one.training_plan.scheduled(mine)[0]
        steps = end
        if mine.end != its.end:
            return steps, f"stages.{mine.stage.name}.{mine.stage.length[0]}"
    return steps, "stages"


def _differing_growth(one: Planned, other: Planned, number: int) -> str | None:
    """The key in which the growth with a number, from 1 on, differs."""
    phases = one.recipe.grown_phases, other.recipe.grown_phases
    if number > min(map(len, phases)):
        return "stages"
    mine, its = (each[number - 1] for each in phases)
    where = ("target", "growth") if number == 1 else (f"stages.{mine.name}.grow", f"stages.{mine.name}.growth")
    if mine.name != its.name:
        return f"stages.{mine.name}.name"
    for key in differing(mine.target.model_dump(mode="json"), its.target.model_dump(mode="json")):
        return f"{where[0]}.{key}"
    # As `auto` came out: norms may be annealed over as many steps as their model is trained for.
    grown = (each.growths[number - 1].plan.growth.model_dump(mode="json") for each in (one, other))
    for key in differing(*grown):
        return f"{where[1]}.{key}"
    return None


def _settings(plan: StagePlan) -> dict[str, Any]:
    """What a stage's steps depend on but for their rates; its name is that of the ledger's line, and of sub-models' draws."""
    left_out = (*UNITS, *_BY_RATE)
    return {key: value for key, value in plan.stage.model_dump(mode="json").items() if key not in left_out}


def branch_off(origin: Path, recipe: Recipe, ds_config: dict[str, Any], directory: RunDirectory, world_size: int) -> None:
    """Give a run that has no checkpoint the newest one of the run in `origin` whose steps are all its own; one rank's work.

    Its directory is then that of a run which took these steps itself: their records, certificates and ledger, without what
    that run lost. Raises UserError where no checkpoint there is of steps that both runs have in common.
    """
    directory.check(recipe, ds_config, None)
    its = RunPaths(origin)
    checkpoints = Checkpoints(its.checkpoints, recipe.checkpointing)
    newest = checkpoints.newest() if its.checkpoints.is_dir() else None
    if newest is None or newest.run is None:
        raise UserError(f"--branch_from: {origin}: no run directory with a checkpoint; name one that launch/pretrain.py wrote")
    made = newest.run
    its_recipe = validate(Recipe, made["recipe"], str(origin))
    for key in differing(same_run(made["ds_config"]), same_run(ds_config)):
        raise UserError(
            f"--branch_from: {origin}: was trained with another {key} in the DeepSpeed configuration; leave --branch_from out"
        )
    with without_messages():
        mine, other = (
            preview_run(one, ds_config, place, world_size, None, saved)
            for one, place, saved in ((recipe, directory, None), (its_recipe, RunDirectory(origin), newest))
        )
    if not isinstance(mine, PlannedOnText) or mine.data.manifest.fingerprint != made["data"]["fingerprint"]:
        raise UserError(
            f"--branch_from: {origin}: was trained on other text than the recipe's, or on shards that are elsewhere; name "
            "its shards as data.shards"
        )
    steps, key = common_steps(mine, other)
    saved = checkpoints.newest(until=steps)
    if saved is None:
        raise UserError(
            f"--branch_from: {origin}: has no checkpoint within the {steps:,} steps that it has in common with this "
            f"run (then they differ in {key}); leave --branch_from out"
        )
    if saved.rewinds:
        raise UserError(
            f"--branch_from: {origin}: its guard went back {saved.rewinds} times and left text out, so that its steps are not "
            "those of this run; name a run that did not go back, or leave --branch_from out"
        )
    for remark in RecordedSettings.of(made, str(origin)).rounding(recipe, ds_config):
        logger.info(remark)
    _adopt(its, saved, saved.run or made, recipe, ds_config, directory)
    logger.info(f"{origin}: its first {saved.step:,} steps are those of this run, which continues from them")


def _adopt(
    its: RunPaths, saved: TrainState, made: RunRecord, recipe: Recipe, ds_config: dict[str, Any], directory: RunDirectory
) -> None:
    """Make a directory that of a run with `recipe` which has come by itself to the checkpoint `saved` of another."""
    # Without a checkpoint, which comes last, all of this is done again.
    data = directory.claim(recipe, ds_config, made["data"])
    phases = [phase for phase in recipe.phases if phase.number <= saved.phase]
    stages = {GROWN_STAGE, *(phase.name for phase in phases), *(stage.name for phase in phases for stage in phase.stages)}
    records = (
        (its.metrics, directory.metrics, StepRecord),
        (its.evaluations, directory.evaluations, EvaluationRecord),
        (its.scores, directory.scores, ScoreRecord),
    )
    for path, own, kind in records:
        taken = [one for one in JsonLines(path, kind).read() if (one["step"] or 0) <= saved.step and one["stage"] in stages]
        own.unlink(missing_ok=True)
        lines = JsonLines(own, kind)
        for record in taken:
            lines.append(record)
        if taken:
            lines.flush()
    directory.lost.unlink(missing_ok=True)
    certificates = made["certificates"][: saved.phase]
    for number, certificate in enumerate(certificates, 1):
        write_json(directory.certificate(number), certificate)
    if saved.phase > 0 and its.source_model.is_dir():
        shutil.copytree(its.source_model, directory.source_model, dirs_exist_ok=True)
    run: RunRecord = {
        **made,
        "recipe": recipe.model_dump(mode="json"),
        "ds_config": cast(DsConfigRecord, without_monitors(ds_config)),
        "data": data,
        "certificates": certificates,
    }
    # Nothing of what that run lost is this run's.
    as_own = saved.copy(run=run)
    as_own.ledger.wasted = 0
    Checkpoints(directory.checkpoints, recipe.checkpointing).adopt(its.checkpoints / saved.tag, as_own)
