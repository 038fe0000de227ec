"""How long the stages of a suite's runs are: shares of a horizon, and what a share of the baseline's compute leaves."""

from pathlib import Path
from typing import Any

from data_prep.manifest import PreparedData
from pipeline.common.errors import UserError
from pipeline.common.logs import without_messages
from pipeline.recipe import Recipe, read_ds_config
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.plan.workload import stage_flops
from pipeline.training.preparation.preparation import Planned, preview_run


def planned(recipe: Recipe, ds_config: Path) -> Planned:
    """Return a preview of a run, step by step, without looking at its text; raises UserError as the run itself does."""
    batch = {key: getattr(recipe, key) for key in ("train_batch_size", "train_micro_batch_size_per_gpu")}
    model = recipe.source.model
    if recipe.data.shards is not None and model is not None and model.vocab_size is None:
        model = model.model_copy(update={"vocab_size": PreparedData(Path(recipe.data.shards)).tokenizer.vocab_size})
        recipe = recipe.model_copy(update={"source": recipe.source.model_copy(update={"model": model})})
    # A suite's lengths are in steps, so that the size of the text, one token here, does not matter.
    with without_messages():
        return preview_run(recipe, read_ds_config(ds_config) | batch, RunDirectory(Path(recipe.run_dir)), 1, 1)


def flops_by_stage(recipe: Recipe, ds_config: Path) -> dict[str, int]:
    """Return the executed FLOPs that each train stage of a recipe is expected to come to, by its name."""
    run = planned(recipe, ds_config)
    return {
        plan.stage.name: stage_flops(recipe, run.config(plan.phase), plan).executed_total for plan in run.training_plan.stages
    }


def in_steps(stages: list[dict[str, Any]], horizon: float) -> tuple[list[dict[str, Any]], str | None]:
    """Return a suite's stages as a recipe's, shares being of `horizon` steps, and the name of the one that takes the rest.

    That one has a single step.
    """
    found, rest = [], None
    for stage in stages:
        own = dict(stage)
        if "share" in own:
            own["steps"] = max(1, round(own.pop("share") * horizon))
        if own.pop("rest", False):
            own["steps"], rest = 1, own["name"]
        found.append(own)
    return found, rest


def steps_of_rest(recipe: Recipe, rest: str, compute: float, ds_config: Path, where: str) -> int:
    """Return the steps of the stage `rest`, which has one in the recipe, with which the run comes nearest to `compute`.

    That is in executed FLOPs. Raises UserError, beginning with `where`, where the other stages alone come to more.
    """
    spent = flops_by_stage(recipe, ds_config)
    one = spent.pop(rest)
    steps = round((compute - sum(spent.values())) / one)
    if steps < 1:
        raise UserError(
            f"{where}: the other stages come to {sum(spent.values()):.3g} FLOPs, which leaves no step of {rest} of the "
            f"{compute:.3g} that the run may have; make them shorter, or `lengths` larger"
        )
    return steps
