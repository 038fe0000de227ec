"""All that a run needs before its first step: data, models, growth plans, stages. Whatever may be refused is refused here."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import is_flash_attn_2_available

from data_prep.manifest import PreparedData
from data_prep.prepare import find_prepared, prepare
from data_prep.settings import DataPrepConfig
from pipeline.common.background import Background
from pipeline.common.errors import UserError
from pipeline.families import family_of, graph_of
from pipeline.growth.inspection import inspect
from pipeline.growth.state import Source
from pipeline.recipe import Recipe
from pipeline.training import distributed
from pipeline.training.directory.checkpoints import TrainState
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.ds_config import compute_dtype, sequence_parallel_size
from pipeline.training.head import check_head
from pipeline.training.loop.balance import check_experts
from pipeline.training.loop.data_watch import DataWatch, Remembered
from pipeline.training.loop.tasks import check_tasks
from pipeline.training.plan.data_mixes import DataMixes
from pipeline.training.plan.training_plan import DataMix, TrainingPlan, plan_training
from pipeline.training.preparation.given_source import downloaded, given_source, source_config, source_place
from pipeline.training.preparation.models import Growth, annealed, plan_models, warn_of_rates
from pipeline.training.preparation.text import (
    check_data,
    check_fit,
    check_sharing,
    check_tokenizer,
    check_training,
    find_data,
    known_tokenizer,
    known_vocabulary,
    vocabulary_size,
    warn_of_training,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a run will do, as far as it is known."""

    recipe: Recipe
    """As it was given."""
    given: Source | None
    """The source, where it came trained."""
    source: PretrainedConfig
    growths: list[Growth]
    training_plan: TrainingPlan
    windows: Callable[[DataMix], int] | None
    """The training windows of a mix; None where the text is not prepared, and a stage of epochs is one step long."""

    def config(self, phase: int) -> PretrainedConfig:
        """The model of a phase."""
        return self.source if phase == 0 else self.growths[phase - 1].target


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedOnText(Planned):
    """What a run will do whose text is prepared."""

    data: PreparedData
    mixes: DataMixes


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation(PlannedOnText):
    """What a run is carried out with."""

    watch: DataWatch
    """Over what is left to be compared of the data."""
    digest: Background[str] | None = None
    """Of the given source, on rank 0; its result raises UserError where a weight is no number. None where it is not needed."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A run that is to be prepared, from a checkpoint on where one is `saved`."""

    recipe: Recipe
    ds_config: dict[str, Any]
    directory: RunDirectory
    saved: TrainState | None
    world_size: int

    def source(self, place: Path | None, part: int, parts: int, *, started: bool, preview: bool = False) -> Source | None:
        """Return the source where it is given, in `place`; what needs no text is looked at before the text is prepared.

        Of `parts` processes that call it together each compares its `part` of a checkpoint with its digests. In a `preview`
        it may be a config.json without weights.
        """
        recipe = self.recipe
        if recipe.attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
            raise UserError("attn_implementation: flash_attention_2 needs the package flash-attn and a GPU it knows; use sdpa")
        given = given_source(recipe, place, part, parts, preview=preview)
        # A run that goes on has its text, and needs no tokenizer to prepare it with.
        tokenizer = None if started else known_tokenizer(recipe, given)
        vocabulary, eos_id = known_vocabulary(recipe, tokenizer)
        # A vocabulary that is not known yet is taken to be as small as can be.
        source = source_config(recipe, given, vocabulary or 1, eos_id)
        if recipe.attn_implementation == "sdpa" and not family_of(source).fused_attention:
            raise UserError(
                "attn_implementation: sdpa, torch's fused attention, does not compute the capped scores of "
                f"{source.model_type}; set attn_implementation: eager"
            )
        check_head(graph_of(source).head, recipe.make_vocab_size_divisible_by, with_loss=recipe.fused_linear_cross_entropy)
        recipe, growths, configs = plan_models(recipe, source, given)
        check_experts(recipe, configs, compute_dtype(self.ds_config))
        check_fit(recipe, configs, vocabulary, "data.tokenizer" if tokenizer is None else str(tokenizer.files[0]))
        check_sharing(recipe, configs, sequence_parallel_size(self.ds_config))
        if recipe.data.tokenizer is not None:
            check_training(recipe.data.tokenizer, family_of(source))
        check_tasks(recipe, family_of(source))
        if tokenizer is not None:
            check_tokenizer(recipe, given, tokenizer, source)
        training_plan = plan_training(recipe, configs, lambda mix: 0, self.ds_config, self.world_size)
        if all(plan.stage.epochs is None for plan in training_plan.stages):
            annealed(growths, training_plan, self.directory, self.saved)
        return given

    def over(self, data: PreparedData, given: Source | None) -> PlannedOnText:
        """Return the run over prepared data; raises UserError where data, models and stages do not go together."""
        recipe = self.recipe
        source = source_config(recipe, given, data.tokenizer.vocab_size, data.tokenizer.eos_id)
        for remark in data.remarks:
            logger.info(remark)
        recipe, growths, configs = plan_models(recipe, source, given)
        check_fit(recipe, configs, data.tokenizer.vocab_size, str(data.tokenizer.files[0]))
        check_tokenizer(recipe, given, data.tokenizer, source)
        mixes = DataMixes(recipe, family_of(source), data)
        training_plan = plan_training(recipe, configs, mixes.windows, self.ds_config, self.world_size)
        mixes.open(plan.mix for plan in training_plan.stages)
        self.directory.check_data({"prepared": str(data.directory), "weights": mixes.weights})
        growths = annealed(growths, training_plan, self.directory, self.saved)
        warn_of_rates(training_plan, growths)
        return PlannedOnText(
            recipe=self.recipe,
            given=given,
            source=source,
            growths=growths,
            training_plan=training_plan,
            windows=mixes.windows,
            data=data,
            mixes=mixes,
        )


def prepare_run(recipe: Recipe, ds_config: dict[str, Any], directory: RunDirectory, saved: TrainState | None) -> Preparation:
    """Return what the run is carried out with, from a checkpoint on where one is `saved`; a collective call.

    Raises UserError naming what is wrong, on every rank; nothing has been trained by then. The source's values are still looked
    through when this returns (`Preparation.digest`), unless text had to be prepared.
    """
    part, parts = distributed.rank(), distributed.world_size()
    place = downloaded(recipe)
    started = distributed.on_first_rank(lambda: directory.recorded_data() is not None)
    request = _Request(recipe, ds_config, directory, saved, parts)
    given = distributed.on_every_rank(lambda: request.source(place, part, parts, started=started))
    digest = None
    # A run that goes on from a checkpoint reads nothing of what it began with.
    if given is not None and saved is None:
        digest = distributed.begin_on_first_rank(partial(inspect, given.state, str(given.directory)))

    def provide(config: DataPrepConfig) -> PreparedData:
        if digest is not None:
            # Preparing may take hours.
            digest.result()
        return prepare(config)

    def found(data: PreparedData | None) -> str:
        assert data is not None, "prepared where it was not"
        return str(data.directory)

    prepared = distributed.on_first_rank(lambda: found(find_data(recipe, directory, given, provide)))
    remembered = distributed.on_first_rank(lambda: Remembered.read(directory.checked))
    data, checks = distributed.on_every_rank(lambda: check_data(recipe, PreparedData(Path(prepared)), remembered, part, parts))
    (left,) = distributed.total(sum(file.size for file in checks.left))
    if left:
        logger.info(f"data: {left / 2**20:,.1f} MiB of shards are compared with their digests while steps run")
    opened = distributed.on_every_rank(lambda: request.over(data, given))
    watch = DataWatch(checks, directory.checked, remembered)
    for remark in () if given is None else given.remarks:
        logger.info(f"source: {remark}")
    return Preparation(**{each.name: getattr(opened, each.name) for each in fields(opened)}, watch=watch, digest=digest)


def preview_run(
    recipe: Recipe,
    ds_config: dict[str, Any],
    directory: RunDirectory,
    world_size: int,
    corpus_tokens: int | None,
    saved: TrainState | None = None,
) -> Planned:
    """Return what `prepare_run` would, by the same checks, and prepare no text; no collective call.

    Where the text is not prepared it is less than a PlannedOnText. `corpus_tokens` stands for text that is not looked at.
    """
    # Alone: no other rank reads the rest of a checkpoint.
    started = directory.recorded_data() is not None
    place = source_place(recipe, weights=False)
    request = _Request(recipe, ds_config, directory, saved, world_size)
    given = request.source(place, part=0, parts=1, started=started, preview=True)
    if given is not None and not given.without_weights:
        inspect(given.state, str(given.directory))
    if corpus_tokens is None:
        data = find_data(recipe, directory, given, find_prepared)
        if data is not None:
            check_data(recipe, data, Remembered.read(directory.checked), 0, 1)
            return request.over(data, given)
        if recipe.data.text is not None:
            warn_of_training(recipe, given)
    vocabulary, eos_id = vocabulary_size(recipe, given)
    source = source_config(recipe, given, vocabulary, eos_id)
    named, growths, configs = plan_models(recipe, source, given)
    windows = None if corpus_tokens is None else lambda mix: max(1, corpus_tokens // mix.sequence_length)
    training_plan = plan_training(named, configs, windows or (lambda mix: 0), ds_config, world_size)
    if windows is not None or all(plan.stage.epochs is None for plan in training_plan.stages):
        growths = annealed(growths, training_plan, directory, saved)
        warn_of_rates(training_plan, growths)
    return Planned(recipe=recipe, given=given, source=source, growths=growths, training_plan=training_plan, windows=windows)


def prepared_text(recipe: Recipe) -> PreparedData | None:
    """Return the prepared text of a recipe whose source is a model to build; None where it is still to be prepared."""
    return find_data(recipe, RunDirectory(Path(recipe.run_dir)), None, find_prepared)
