"""When a run does what: its models one after the other, their stages with first and last step."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PretrainedConfig

from pipeline.data.objectives import MASKED_SHARE
from pipeline.families import NO_MIXTURES, ActiveLayers, Family, Mixtures, graph_of
from pipeline.flops.counts import ForwardFlops, StepFlops, training_step
from pipeline.recipe import Recipe, ScheduleConfig, TrainStage
from pipeline.training.ds_config import data_parallel_size, division, has_zero_linear
from pipeline.training.loop.running import draw_depths
from pipeline.training.parameter_groups import active_layers_of
from pipeline.training.plan.schedule import decay_steps, rate_factor, stage_warmup

_DRAWN_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class DataMix:
    """What text a stage reads, and in sequences of what length; stages that agree in it go on where the last one ended."""

    sequence_length: int
    weights: tuple[tuple[str, float], ...] | None
    """Corpora and their weights, or None for the data's own."""

    @classmethod
    def of(cls, recipe: Recipe, sequence_length: int | None, weights: Mapping[str, float] | None) -> "DataMix":
        """The mix of a stage that names so much of it itself, the rest being the recipe's."""
        chosen = weights if weights is not None else recipe.data.weights
        return cls(sequence_length or recipe.data.sequence_length, None if chosen is None else tuple(sorted(chosen.items())))

    @property
    def name(self) -> str:
        """The name under which the position in it is kept."""
        blend = "" if self.weights is None else " " + " ".join(f"{corpus}={weight:g}" for corpus, weight in self.weights)
        return f"{self.sequence_length}{blend}"


@dataclass(frozen=True)
class StagePlan:
    """One train stage, its length known: steps [begin, end) of the run."""

    stage: TrainStage
    phase: int
    begin: int
    end: int
    layers: int
    """Of the model that it trains."""
    mix: DataMix
    batch_size: int
    micro_batch_size: int
    accumulation: int
    seed: int
    zero_linear: bool
    """Whether DeepSpeed's linear stands in for torch's."""
    mixtures: Mixtures = NO_MIXTURES
    """Of the model that it trains."""

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.batch_size * self.mix.sequence_length

    def active_layers(self, step: int) -> ActiveLayers:
        """What runs and learns in a step of the run: of sub-models (bert2BERT algorithm 2, line 5) a draw by seed and step."""
        if self.stage.submodel_layers is not None:
            (depth,) = _depths(self.stage, self.layers, self.seed, step - self.begin, 1)
            return ActiveLayers.top(int(depth), self.stage.submodel_layers)
        if self.stage.trainable is not None:
            return active_layers_of(self.stage.trainable, self.layers, f"stages.{self.stage.name}.trainable", self.mixtures)
        return ActiveLayers.whole(self.layers)

    def steps_by_active_layers(self) -> dict[ActiveLayers, int]:
        """What runs and learns in the steps of the stage, and in how many of them."""
        steps, trained = self.end - self.begin, self.stage.submodel_layers
        if trained is None:
            return {self.active_layers(self.begin): steps}
        drawn: Counter[int] = Counter()
        for start in range(0, steps, _DRAWN_AT_ONCE):
            drawn.update(_depths(self.stage, self.layers, self.seed, start, min(_DRAWN_AT_ONCE, steps - start)).tolist())
        return {ActiveLayers.top(depth, trained): count for depth, count in sorted(drawn.items())}


def _depths(stage: TrainStage, layers: int, seed: int, start: int, count: int) -> np.ndarray:
    assert stage.submodel_layers is not None, "a stage of sub-models"
    return draw_depths(layers, stage.submodel_layers, (seed, stage.name), start, count)


class TrainingPlan:
    """The stages of a run, one after the other."""

    def __init__(self, recipe: Recipe, stages: list[StagePlan]) -> None:
        self._recipe = recipe
        self.stages = stages

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.stages[-1].end

    def of_phase(self, phase: int) -> list[StagePlan]:
        """The stages that train one model."""
        return [plan for plan in self.stages if plan.phase == phase]

    def bounds(self, phase: int) -> tuple[int, int]:
        """The steps [begin, end) of the run in which one model is trained."""
        stages = self.of_phase(phase)
        return (stages[0].begin, stages[-1].end) if stages else (0, 0)

    def scheduled(self, plan: StagePlan) -> tuple[str, ScheduleConfig, int, int]:
        """A plan's schedule: its key, itself, and the steps [begin, end) of the run that it stretches over."""
        shared = self._recipe.schedule
        if plan.stage.schedule is not None:
            return f"stages.{plan.stage.name}.schedule", plan.stage.schedule, plan.begin, plan.end
        return "schedule", shared, *((0, self.steps) if shared.span == "run" else self.bounds(plan.phase))

    def long_warmups(self) -> Iterator[str]:
        """Say of each warmup that is longer than its span by how much."""
        warmups = []
        for plan in self.stages:
            key, schedule, begin, end = self.scheduled(plan)
            warmups.append((key, schedule.warmup_steps, begin, end))
            warmups.append((f"stages.{plan.stage.name}", plan.stage.warmup_steps, plan.begin, plan.end))
        # Stages that share a schedule share its warmup.
        for key, warmup, begin, end in dict.fromkeys(warmups):
            if warmup > end - begin:
                yield (
                    f"{key}.warmup_steps: {warmup:,} steps are more than the {end - begin:,} that they belong to, "
                    f"{begin + 1:,} to {end:,} of the run; the peak rate is not reached there"
                )

    @cached_property
    def rate_factors(self) -> np.ndarray:
        """The share of its stage's peak rate that each step of the run is taken with."""
        return np.array([self.rate_factor(plan, step) for plan in self.stages for step in range(plan.begin, plan.end)])

    def early_decay(self) -> Iterator[str]:
        """Say of a rate that stays at its peak and falls in the end if it falls before the run's last growth."""
        schedule, (begin, _) = self._recipe.schedule, self.bounds(self.stages[-1].phase)
        if schedule.name == "wsd" and schedule.span == "run" and begin:
            falls = self.steps - decay_steps(schedule, self.steps)
            if falls < begin:
                yield (
                    f"schedule.decay_ratio: the rate falls from step {falls + 1:,} on, and the last growth comes "
                    f"after step {begin:,}; what it adds never learns at the full rate"
                )

    def rate_factor(self, plan: StagePlan, step: int) -> float:
        """Return the share of the stage's peak rate that a step of the run is taken with."""
        _, schedule, begin, end = self.scheduled(plan)
        return rate_factor(schedule, step - begin, end - begin) * stage_warmup(step - plan.begin, plan.stage.warmup_steps)


def step_flops(recipe: Recipe, forward: ForwardFlops, plan: StagePlan, active: ActiveLayers, scored: int) -> StepFlops:
    """FLOPs of one step of a plan in which the head scores `scored` positions."""
    return training_step(
        forward,
        plan.mix.sequence_length,
        plan.tokens,
        scored=scored,
        active=active,
        recomputed=recipe.activation_checkpointing,
        zero_linear=plan.zero_linear,
        causal_scores=recipe.flops.causal_scores,
        pairs=recipe.data.pairs is not None,
    )


def expected_flops(recipe: Recipe, forward: ForwardFlops, plan: StagePlan, active: ActiveLayers) -> StepFlops:
    """FLOPs of a step before its text is read."""
    return step_flops(recipe, forward, plan, active, expected_scored(forward.family, plan.tokens))


def expected_scored(family: Family, tokens: int) -> int:
    """Positions that the head scores of so many tokens: of masked text its share, padding too."""
    return round(tokens * MASKED_SHARE) if family.objective == "mlm" else tokens


def plan_training(
    recipe: Recipe,
    configs: Mapping[int, PretrainedConfig],
    windows: Callable[[DataMix], int],
    ds_config: Mapping[str, Any],
    world_size: int,
) -> TrainingPlan:
    """Return the training_plan of a recipe.

    `configs` has each phase's model; `windows` counts the training windows of a mix; `ds_config` is DeepSpeed's, as
    resolved. Raises UserError naming a stage whose batch does not divide.
    """
    stages: list[StagePlan] = []
    for phase in recipe.phases:
        graph = graph_of(configs[phase.number])
        for stage in phase.stages:
            mix = DataMix.of(recipe, stage.sequence_length, stage.weights)
            batch_size = stage.train_batch_size or ds_config["train_batch_size"]
            most = stage.train_micro_batch_size_per_gpu or ds_config["train_micro_batch_size_per_gpu"]
            micro, accumulation = division(batch_size, most, data_parallel_size(ds_config, world_size), f"stages.{stage.name}")
            begin = stages[-1].end if stages else 0
            plan = StagePlan(
                stage,
                phase.number,
                begin,
                begin + 1,
                len(graph.layers),
                mix,
                batch_size,
                micro,
                accumulation,
                recipe.seed,
                has_zero_linear(ds_config),
                graph.mixtures,
            )
            steps = _steps(recipe, configs[phase.number], plan, windows)
            stages.append(replace(plan, end=begin + steps))
    return TrainingPlan(recipe, stages)


def _steps(recipe: Recipe, config: PretrainedConfig, plan: StagePlan, windows: Callable[[DataMix], int]) -> int:
    """The optimizer steps of a stage: enough of them to reach its length."""
    unit, number = plan.stage.length
    if unit == "epochs":
        return max(1, math.ceil(number * windows(plan.mix) / plan.batch_size))
    if unit == "tokens":
        return math.ceil(number / plan.tokens)
    if unit == "flops":
        return _steps_to_reach(number, recipe, config, plan)
    return int(number)


def _steps_to_reach(flops: float, recipe: Recipe, config: PretrainedConfig, plan: StagePlan) -> int:
    """The first number of steps whose model FLOPs are at least `flops`."""
    forward = ForwardFlops.of(config)
    if plan.stage.submodel_layers is None:
        return math.ceil(flops / expected_flops(recipe, forward, plan, plan.active_layers(plan.begin)).model_total)
    trained = plan.stage.submodel_layers
    cost = np.zeros(plan.layers + 1)
    for depth in range(trained, plan.layers + 1, trained):
        cost[depth] = expected_flops(recipe, forward, plan, ActiveLayers.top(depth, trained)).model_total
    steps, spent = 0, 0.0
    while True:
        reached = spent + np.cumsum(cost[_depths(plan.stage, plan.layers, plan.seed, steps, _DRAWN_AT_ONCE)])
        if reached[-1] >= flops:
            return steps + int(np.searchsorted(reached, flops)) + 1
        steps, spent = steps + _DRAWN_AT_ONCE, float(reached[-1])
