"""The models of a run, one grown from the other, and what their stages train of them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families import check_trained, derived_sizes, graph_of, layer_kind, scratch_config, sizes_of, target_config
from pipeline.growth.new_tokenizer import open_new_tokenizer
from pipeline.growth.optimizer_growth import grow_optimizer
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.growth.state import Source
from pipeline.recipe import GrownPhase, ModelConfig, Recipe, TrainStage
from pipeline.training.directory.checkpoints import TrainState
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.parameter_groups import check_learns, cut, naming_added
from pipeline.training.plan.training_plan import TrainingPlan
from pipeline.training.preparation.given_source import sequence_lengths
from pipeline.training.width_rates import check_proportions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Growth:
    """The way from one model of the run to the next."""

    phase: GrownPhase
    """What the growth leads to."""
    target: PretrainedConfig
    plan: GrowthPlan


def plan_models(
    recipe: Recipe, source: PretrainedConfig, given: Source | None
) -> tuple[Recipe, list[Growth], dict[int, PretrainedConfig]]:
    """Return the recipe with the layers that its stages select by name, the growths, and each phase's model."""
    growths, stages = _plan(recipe, source, given)
    if recipe.final_model is not None:
        _check_final(recipe, recipe.final_model, source, growths[-1].target)
    named = recipe.model_copy(update={"stages": [stages.get(stage.name, stage) for stage in recipe.stages]})
    return named, growths, {0: source} | {growth.phase.number: growth.target for growth in growths}


def _plan(recipe: Recipe, source: PretrainedConfig, given: Source | None) -> tuple[list[Growth], dict[str, TrainStage]]:
    """Return the growths of a run, and its train stages by name with their layers named.

    Raises UserError where there is no way, or a stage does not fit its model.
    """
    growths: list[Growth] = []
    named: dict[str, TrainStage] = {}
    added: list[int] = []
    before, new_tokens = source, False
    for phase in recipe.phases:
        if isinstance(phase, GrownPhase):
            where = "target." if phase.number == 1 else f"stages.{phase.name}.grow."
            new = phase.target.tokenizer
            # Another tokenizer is refused by the recipe where no source is given.
            tokenizer = None if new is None or given is None else open_new_tokenizer(given, new)
            sizes = phase.target if tokenizer is None else tokenizer.sized(phase.target, where)
            with _named_by_stage(recipe, phase):
                target = target_config(before, sizes, where, phase.growth)
                derived = derived_sizes(before, target, phase.target, phase.growth)
                plan = plan_growth(
                    before,
                    target,
                    phase.growth,
                    recipe.seed,
                    derived=derived,
                    tokenizer=tokenizer,
                    where=where,
                    optimizer=recipe.optimizer.name,
                )
            check_trained(plan.family, f"{where}model_type")
            if plan.takes_gates and plan.tokenizer is None:
                plan = plan.measuring_gates()
            if phase.number == 1 and given is not None and plan.growth.optimizer_state == "grow":
                grow_optimizer(plan, given.optimizer)
            check_proportions(graph_of(before), plan.graph, recipe.optimizer, where)
            growths.append(Growth(phase, plan.config, plan))
            before = plan.config
            new_tokens = len(plan.new_tokens) > 0
            added = [layer for layer, origin in enumerate(plan.layers) if origin.added]
        stages = [naming_added(stage, added) for stage in phase.stages]
        graph = graph_of(before)
        cut(len(graph.layers), stages, graph.mixtures)
        for stage in stages:
            check_learns(graph, stage, new_tokens=new_tokens)
            named[stage.name] = stage
    return growths, named


@contextmanager
def _named_by_stage(recipe: Recipe, phase: GrownPhase) -> Iterator[None]:
    """Name keys of a stage's own growth section by their place, in what is raised within; all others as they are."""
    try:
        yield
    except UserError as error:
        key = str(error)
        if phase.growth is recipe.growth or not key.startswith("growth."):
            raise
        raise UserError(f"stages.{phase.name}.{key}") from None


def _check_final(recipe: Recipe, final: ModelConfig, source: PretrainedConfig, grown: PretrainedConfig) -> None:
    """Raise UserError where the run's growths come to another model than the recipe says it ends with."""
    eos_id, pairs = source.eos_token_id or 0, recipe.data.pairs is not None
    wanted = scratch_config(final, sizes_of(source).vocab_size, eos_id, max(sequence_lengths(recipe)), pairs=pairs)
    ours, theirs = asdict(sizes_of(grown)), asdict(sizes_of(wanted))
    for key in [key for key in ours if ours[key] != theirs[key]]:
        raise UserError(
            f"final_model.{key}: the run's growths end at {ours[key]}, and the model has {theirs[key]}; name {key} in "
            "each size and in the model (progressive.sizes, progressive.model), or in each `grow` of the stages"
        )
    for layer in range(wanted.num_hidden_layers):
        grew, own = layer_kind(grown, layer), layer_kind(wanted, layer)
        for key in [key for key in own if grew[key] != own[key]]:
            raise UserError(
                f"final_model: layer {layer} of the grown model has {key} {grew[key]!r}, as the layer that it is made of, and "
                f"the model's own has {own[key]!r}; choose sizes that have a layer of each kind, and growth: auto, or depth: "
                "list with layers of the same kind"
            )


def annealed(
    growths: list[Growth], training_plan: TrainingPlan, directory: RunDirectory, saved: TrainState | None
) -> list[Growth]:
    """Return the growths, norms that `auto` weighted turning to stock norms within the steps that their model is trained for.

    Raises UserError where norms that the recipe weights are annealed for longer than that.
    """
    settled = []
    for growth in growths:
        begin, end = training_plan.bounds(growth.phase.number)
        annealed = growth.plan.growth.norm_anneal_steps
        if growth.plan.growth.norm_statistics == "weighted":
            if growth.phase.growth.width == "auto":
                # A stage that is lengthened since must not anneal once more what is annealed.
                steps = directory.annealing_steps(growth.phase.number, saved) or min(annealed, end - begin)
                growth = growth if steps == annealed else replace(growth, plan=growth.plan.annealed_over(steps))
            elif end - begin < annealed:
                raise UserError(
                    f"growth.norm_anneal_steps: {annealed} steps are more than the target's {end - begin}, after which its "
                    "norms are to be stock; choose fewer"
                )
        settled.append(growth)
    return settled


def warn_of_rates(training_plan: TrainingPlan, growths: Sequence[Growth]) -> None:
    """Say what warms up for longer than its steps, or falls too early; no refusal, since trials of long recipes are common."""
    for warning in (*training_plan.long_warmups(), *training_plan.early_decay()):
        logger.warning(warning)
    for growth in growths:
        (begin, end), steps = training_plan.bounds(growth.phase.number), growth.plan.growth.added.steps
        if begin < end < begin + steps:
            logger.warning(
                f"growth.added: {steps:,} steps are more than the {end - begin:,} that the grown model is trained "
                f"for, {begin + 1:,} to {end:,} of the run; what {growth.phase.name} adds does not reach the common rate there"
            )
