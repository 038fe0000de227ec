"""What the stages of a run are expected to cost, and so how long it will take still."""

from collections.abc import Callable

from transformers import PretrainedConfig

from pipeline.flops.counts import ForwardFlops, StepFlops
from pipeline.recipe import Recipe
from pipeline.training.plan.training_plan import StagePlan, TrainingPlan, expected_flops

_HALF_LIFE = 60.0
"""Seconds after which what was seen of the speed counts half: models of other sizes run at other speeds."""


def stage_flops(recipe: Recipe, config: PretrainedConfig, plan: StagePlan, *, every_expert: bool = False) -> StepFlops:
    """Return the FLOPs that all steps of a stage are expected to come to; of sub-models, those that will be drawn.

    `every_expert`: as if each token went through all experts of a mixture.
    """
    whole, forward = StepFlops(), ForwardFlops.of(config, every_expert=every_expert)
    for active, steps in plan.steps_by_active_layers().items():
        whole += expected_flops(recipe, forward, plan, active) * steps
    return whole


class Workload:
    """The executed FLOPs of a run that are still to come, by the step that it stands at."""

    def __init__(self, recipe: Recipe, training_plan: TrainingPlan, config: Callable[[int], PretrainedConfig]) -> None:
        """`config` has each phase's model."""
        self.steps = training_plan.steps
        self._stages = [(plan, stage_flops(recipe, config(plan.phase), plan).executed_total) for plan in training_plan.stages]

    def left(self, step: int) -> float:
        """Return the FLOPs of the steps from `step` on."""
        return sum(
            flops * (plan.end - max(step, plan.begin)) / (plan.end - plan.begin)
            for plan, flops in self._stages
            if step < plan.end
        )


class Outlook:
    """How long a run will take still: the FLOPs that are left, by the FLOP/s of late, evaluations and checkpoints included."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._flops = self._seconds = 0.0

    def step(self, flops: int, seconds: float) -> None:
        """Take note of a step of so many executed FLOPs, which took so long with all that came before it."""
        kept = 0.5 ** (seconds / _HALF_LIFE)
        self._flops = kept * self._flops + flops
        self._seconds = kept * self._seconds + seconds

    def seconds_left(self, step: int) -> float:
        """Return the seconds from the end of `step` to that of the last one."""
        return self._workload.left(step) * self._seconds / self._flops
