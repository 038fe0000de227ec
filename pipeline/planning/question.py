"""From a recipe of the target from scratch to the question that is asked of the planner."""

from pathlib import Path

from pipeline.common.config import validate
from pipeline.common.errors import UserError
from pipeline.families import read_config
from pipeline.planning.law import setting_in_words
from pipeline.planning.record import entry_of, hyperparameters_of
from pipeline.planning.schedules import Given, Question
from pipeline.planning.sizes import Size, size_of, smaller_models
from pipeline.recipe import ModelConfig, Recipe, TargetConfig
from pipeline.runs import RunPaths

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
    smaller = tuple(size_of(one, recipe, vocab_size) for one in smaller_models(model))
    target = size_of(model, recipe, vocab_size)
    batch = recipe.train_batch_size * recipe.data.sequence_length
    if tokens < _FEWEST_STEPS * batch:
        raise UserError(
            f"--tokens: {tokens} are fewer than {_FEWEST_STEPS} steps of {batch} tokens, which is too short to plan; name more"
        )
    given = None if source is None else _given(source, recipe, target, text)
    decay = recipe.schedule.decay_ratio if recipe.schedule.name == "wsd" else 0.0
    return Question(setting_of_recipe(recipe, text), text, recipe.optimizer.name, target, tokens, batch, decay, smaller, given)


def setting_of_recipe(recipe: Recipe, text: str) -> str:
    """Return the setting of a recipe that trains from scratch, on a text of this fingerprint."""
    return setting_in_words(
        model_of(recipe).family,
        text,
        recipe.data.sequence_length,
        recipe.train_batch_size * recipe.data.sequence_length,
        recipe.optimizer.name,
        recipe.schedule.model_dump(mode="json"),
        hyperparameters_of(recipe),
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
    if size.config.model_type != target.config.model_type or any(
        size.sizes[key] > value for key, value in target.sizes.items()
    ):
        raise UserError(
            f"--source: {source} is a {size.config.model_type} of {size.name}, which the target, a "
            f"{target.config.model_type} of {target.name}, cannot be grown from; name a smaller model of its family"
        )
    return Given(size, sum(phase["tokens"] for phase in entry["phases"]), entry["flops"], entry["optimizer"])
