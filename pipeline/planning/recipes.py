"""From a recipe of the target from scratch to the question that is asked, and from schedules to recipes and back."""

import math
from pathlib import Path
from typing import Any

from pipeline.common.config import typed, validate
from pipeline.common.errors import UserError
from pipeline.families import graph_of, read_config, scratch_config, sizes_of, target_config
from pipeline.growth.auto_operators import resolve_auto
from pipeline.planning.law import setting_of
from pipeline.planning.record import ScheduleEntry, check_stage, entry_of, growth_entry, hyperparameters_of, phase_entry
from pipeline.planning.schedules import Given, Kind, Question, Schedule, Size, size_of, smaller_models
from pipeline.recipe import GrownPhase, ModelConfig, Recipe, TargetConfig, TrainStage
from pipeline.runs import RunPaths


def recipe_of(base: Recipe, schedule: Schedule, run_dir: str, given: str | None = None) -> Recipe:
    """Return a recipe of a schedule: the base's text, batch, optimizer and schedule of rates, which spans the whole run.

    `given` is the path of the first size where that is there already.
    """
    first, *later = schedule.sizes
    steps, *later_steps = schedule.steps
    content = base.model_dump(mode="json", exclude_unset=True)
    content |= {"run_dir": run_dir, "schedule": content.get("schedule", {}) | {"span": "run"}}
    content.pop("growth", None)
    content |= {"target": {}, "stages": [_stage(first, steps)] if not later or (given is not None and steps) else []}
    if given is None:
        # In the keys that all families share, in which the base is read.
        model = {key: first.sizes.get(key, value) for key, value in content["source"]["model"].items()}
        content["source"] = {"model": model} | ({"steps": steps} if later else {})
    else:
        content["source"] = {"path": given}
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


_FEWEST_STEPS = 10
"""Of the target from scratch: a plan divides them among sizes."""


def model_of(recipe: Recipe) -> ModelConfig:
    """Return the model that a recipe builds from scratch; raises UserError where its source is given."""
    if recipe.source.model is None:
        raise UserError("--recipe: its source is given, and the planner takes a recipe that trains the target from scratch")
    return recipe.source.model


def of_target(recipe: Recipe, sizes: dict[str, object]) -> Recipe:
    """Return the recipe with other sizes of its model.

    Raises UserError where the recipe grows a model or trains one that is given: the target's sizes cannot be chosen then.
    """
    if recipe.source.model is None or recipe.source.length is not None or recipe.target != TargetConfig():
        raise UserError(
            "--recipe: the planner takes a recipe that trains the target from scratch, with a `source.model` that has no "
            "length, and `target: {}`, as launch/recipes/scratch.yaml does"
        )
    model = validate(ModelConfig, recipe.source.model.model_dump(exclude_unset=True) | sizes, "--target")
    return recipe.model_copy(update={"source": recipe.source.model_copy(update={"model": model})})


def vocabulary(recipe: Recipe, prepared: int | None) -> int:
    """Return the size of the vocabulary: of the prepared text, or what the recipe says; raises UserError where it says none."""
    tokenizer = recipe.data.tokenizer
    known = prepared or model_of(recipe).vocab_size or (None if tokenizer is None else tokenizer.vocab_size)
    if known is None:
        raise UserError("--target: the vocabulary is not known before the text is prepared; name vocab_size=N")
    return known


def question_of(recipe: Recipe, tokens: int, text: str, vocab_size: int, source: Path | None) -> Question:
    """Return the question: the recipe's model on so many tokens of a text, from given or own smaller sizes.

    `text` is the fingerprint of the prepared text. Raises UserError where a size cannot be had.
    """
    model = model_of(recipe)
    target, *smaller = (size_of(one, recipe, vocab_size) for one in (model, *smaller_models(model)))
    batch = recipe.train_batch_size * recipe.data.sequence_length
    if tokens < _FEWEST_STEPS * batch:
        raise UserError(
            f"--tokens: {tokens} are fewer than {_FEWEST_STEPS} steps of {batch} tokens, which is too short to plan; name more"
        )
    given = None if source is None else _given(source, recipe, target, text)
    decay = recipe.schedule.decay_ratio if recipe.schedule.name == "wsd" else 0.0
    return Question(
        setting_of_recipe(recipe, text), text, recipe.optimizer.name, target, tokens, batch, decay, tuple(smaller), given
    )


def setting_of_recipe(recipe: Recipe, text: str) -> str:
    """Return the setting of a recipe that trains from scratch, on a text of this fingerprint."""
    return setting_of(
        {
            "family": model_of(recipe).family,
            "text": text,
            "sequence_length": recipe.data.sequence_length,
            "batch_tokens": recipe.train_batch_size * recipe.data.sequence_length,
            "optimizer": recipe.optimizer.name,
            "schedule": typed(ScheduleEntry, recipe.schedule.model_dump(mode="json"), "schedule"),
            "hyperparameters": hyperparameters_of(recipe),
        }
    )


def _given(source: Path, recipe: Recipe, target: Size, text: str) -> Given:
    if not RunPaths(source).summary.exists():
        raise UserError(
            f"--source: {source} is no finished run, so what its model was trained on and has cost is not known; name a run "
            "directory"
        )
    entry = entry_of(source)
    if (entry["text"], entry["sequence_length"]) != (text, recipe.data.sequence_length):
        raise UserError(
            f"--source: {source} was trained on other text, by another tokenizer or in windows of another length than the "
            "target is to be, and what its tokens are worth there is not known; name a run of the target's own text"
        )
    if len(entry["phases"]) > 1:
        raise UserError(
            f"--source: {source} was itself grown, and the law is of sources that were trained at one size; name such a run"
        )
    size = Size.of(read_config(RunPaths(source).model / "config.json"), recipe)
    larger = any(size.sizes[key] > value for key, value in target.sizes.items())
    if size.config.model_type != target.config.model_type or larger:
        raise UserError(
            f"--source: {source} is a {size.config.model_type} of {size.name}, which the target, a "
            f"{target.config.model_type} of {target.name}, cannot be grown from; name a smaller model of its family"
        )
    return Given(size, sum(phase["tokens"] for phase in entry["phases"]), entry["flops"], entry["optimizer"])
