"""Schedules as recipes that launch/pretrain.py runs, and recipes as schedules."""

import math
from typing import Any

from pipeline.common.config import validate
from pipeline.common.errors import UserError
from pipeline.families import graph_of, scratch_config, sizes_of, target_config
from pipeline.growth.auto_operators import resolve_auto
from pipeline.planning.question import setting_of_recipe
from pipeline.planning.record import check_stage, growth_entry, phase_entry
from pipeline.planning.schedules import Kind, Question, Schedule
from pipeline.planning.sizes import Size
from pipeline.recipe import GrownPhase, Recipe, TrainStage


def recipe_of(base: Recipe, schedule: Schedule, run_dir: str, given: str | None = None) -> Recipe:
    """Return a recipe of a schedule: the base's text, batch, optimizer and schedule of rates, which spans the whole run.

    `given` is the path of the first size where that is there already.
    """
    first, *later = schedule.sizes
    steps, *later_steps = schedule.steps
    content = base.model_dump(mode="json", exclude_unset=True)
    content |= {"run_dir": run_dir, "schedule": content.get("schedule", {}) | {"span": "run"}}
    content.pop("growth", None)
    if given is None:
        model = content["source"]["model"]
        # In the keys that all families share, in which the base is read.
        model = {key: first.sizes.get(key, value) for key, value in model.items()}
        content["source"] = {"model": model} | ({"steps": steps} if later else {})
        content["stages"] = []
    else:
        content["source"] = {"path": given}
        content["stages"] = [_stage(first, steps)] if steps and later else []
    content["target"] = {}
    if not later:
        content["stages"] = [_stage(first, steps)]
    for number, (size, own_steps, kind) in enumerate(zip(later, later_steps, schedule.kinds, strict=True)):
        grow = size.beyond(schedule.sizes[number])
        if number == 0 and not content["stages"]:
            content |= {"target": grow, "growth": kind.section}
        else:
            content["stages"].append({"name": f"grow-to-{size.name}", "grow": grow, "growth": kind.section})
        content["stages"].append(_stage(size, own_steps))
    return validate(Recipe, content, "the planned recipe")


def _stage(size: Size, steps: int) -> dict[str, Any]:
    return {"name": f"train-{size.name}", "steps": steps}


def schedule_of(recipe: Recipe, question: Question, where: str) -> Schedule:
    """Return the schedule that a recipe is; raises UserError, naming `where`, for one that does not train whole models in turn.

    It is taken to be on the question's text; batch, optimizer and schedule have to be the question's.
    """
    if recipe.source.model is None:
        raise UserError(f"{where}: a recipe whose source is given; plan for it with --source instead")
    if (setting := setting_of_recipe(recipe, question.text)) != question.setting:
        raise UserError(
            f"{where}: a run of {setting}, and the plan is of {question.setting}; name by --recipe one from scratch that has "
            "the same settings"
        )
    sizes: list[Size] = []
    steps: list[int] = []
    kinds: list[Kind] = []
    vocab_size = sizes_of(question.target.config).vocab_size
    config = scratch_config(recipe.source.model, vocab_size, 0, recipe.data.sequence_length)
    for phase in recipe.phases:
        if isinstance(phase, GrownPhase):
            config = target_config(config, phase.target, growth=phase.growth)
        if not phase.stages:
            continue
        own = sum(_steps(stage, question, where) for stage in phase.stages)
        size = Size.of(config, recipe)
        if sizes and size.sizes == sizes[-1].sizes:
            steps[-1] += own
            continue
        if sizes and isinstance(phase, GrownPhase):
            before, after = (phase_entry(each.config, 0, 0) for each in (sizes[-1], size))
            growth, _ = resolve_auto(
                phase.growth or recipe.growth,
                graph_of(sizes[-1].config),
                *(sizes_of(each.config) for each in (sizes[-1], size)),
            )
            section = growth.model_dump(mode="json")
            entry = growth_entry(before, after, section, schedule_anew=recipe.schedule.span == "model")
            kind = Kind.of(entry)
            if kind is None:
                raise UserError(f"{where}: a growth in depth and width at once, or of listed layers, which the law is not of")
            kinds.append(kind)
        sizes.append(size)
        steps.append(own)
    if sizes[-1].sizes != question.target.sizes:
        raise UserError(f"{where}: ends with {sizes[-1].name}, and the target is {question.target.name}; name it as --target")
    return Schedule(tuple(sizes), tuple(steps), tuple(kinds))


def _steps(stage: TrainStage, question: Question, where: str) -> int:
    check_stage(stage, where)
    unit, length = stage.length or ("no unit", 0)
    if unit not in ("steps", "tokens"):
        raise UserError(f"{where}: stages.{stage.name}: its length is in {unit}; name steps or tokens")
    return int(length) if unit == "steps" else math.ceil(length / question.step_tokens)
