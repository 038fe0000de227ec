"""A preview of a run without training: models, memory, FLOPs, time; by the checks that a run begins with."""

import copy
import errno
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PretrainedConfig

from pipeline.families import family_of
from pipeline.flops.activations import activation_bytes
from pipeline.flops.counts import PARTS, StepFlops
from pipeline.growth.memory import RankBytes
from pipeline.recipe import Recipe
from pipeline.training.directory.checkpoints import Checkpoints
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.ds_config import compute_dtype, sequence_parallel_size
from pipeline.training.footprint import memory_by_stage
from pipeline.training.loop.balance import router_weights
from pipeline.training.monitoring.utilization import Device
from pipeline.training.plan.training_plan import StagePlan, expected_scored
from pipeline.training.plan.workload import stage_flops
from pipeline.training.preparation.preparation import Planned, preview_run

logger = logging.getLogger(__name__)

_STEPS_ON_AVERAGE = 10_000

_RATES_LOOKED_AT = 1000
"""Steps of a stage at which its learning rate is looked at for the highest, beside those where a warmup ends."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """A run as preview."""

    recipe: Recipe
    ds_config: dict[str, Any]
    planned: Planned
    ranks: int
    mfu: float
    device: Device
    corpus_tokens: int | None
    reached: int
    """Steps that the run directory holds of this run."""

    @classmethod
    def of(cls, recipe: Recipe, ds_config: dict[str, Any], ranks: int, mfu: float, corpus_tokens: int | None) -> "DryRun":
        """Look at all that a run needs, and write nothing; raises UserError as the run would."""
        directory = RunDirectory(Path(recipe.run_dir))
        _check_place(directory.path)
        saved = Checkpoints(directory.checkpoints, recipe.checkpointing).newest()
        if directory.path.exists():
            for remark in directory.check(recipe, ds_config, saved):
                logger.info(remark)
        planned = preview_run(recipe, ds_config, directory, ranks, corpus_tokens, saved)
        device = Device.here(compute_dtype(ds_config), recipe.flops.peak_tflops)
        return cls(recipe, ds_config, planned, ranks, mfu, device, corpus_tokens, 0 if saved is None else saved.step)

    @property
    def stages(self) -> list[StagePlan]:
        """The train stages, one after the other."""
        return self.planned.training_plan.stages

    def config(self, phase: int) -> PretrainedConfig:
        """The model of a phase."""
        return self.planned.config(phase)

    def resolved(self, plan: StagePlan) -> bool:
        """Whether the steps of a stage are known."""
        return plan.stage.epochs is None or self.planned.windows is not None

    @property
    def all_resolved(self) -> bool:
        """Whether the steps of all stages are known."""
        return all(map(self.resolved, self.stages))

    def flops(self, *, every_expert: bool = False) -> list[StepFlops]:
        """FLOPs by stage; of one step, on average, where the steps are not known.

        `every_expert`: as if each token went through all experts of a mixture.
        """
        found = []
        for plan in self.stages:
            steps = plan if self.resolved(plan) else replace(plan, end=plan.begin + _STEPS_ON_AVERAGE)
            came = stage_flops(self.recipe, self.config(plan.phase), steps, every_expert=every_expert)
            if steps is not plan:
                by_part = ({part: each[part] // _STEPS_ON_AVERAGE for part in PARTS} for each in (came.model, came.executed))
                came = StepFlops(*by_part)
            found.append(came)
        return found

    def memory(self, config: PretrainedConfig, ranks: int | None = None) -> dict[int, RankBytes]:
        """What each of the run's ranks, or of so many, keeps of a model in training, by stage of ZeRO."""
        return memory_by_stage(config, self.recipe.optimizer, compute_dtype(self.ds_config), ranks or self.ranks)

    def seconds(self, flops: StepFlops) -> float:
        """The time of so many model FLOPs at the MFU asked about."""
        return flops.model_total / (self.mfu * self.ranks * self.device.peak.flops_per_second)

    def activations(self, plan: StagePlan) -> int:
        """Bytes that a rank keeps of a micro-batch for its backward pass; of a sub-model of any depth they are as many."""
        config = copy.copy(self.config(plan.phase))
        family = family_of(config)
        config._attn_implementation = self.recipe.attn_implementation
        config._experts_implementation = self.recipe.experts_implementation
        # Of sequences that ranks share each keeps what belongs to its own positions.
        tokens = plan.micro_batch_size * plan.mix.sequence_length // sequence_parallel_size(self.ds_config)
        return activation_bytes(
            family,
            config,
            plan.mix.sequence_length,
            tokens,
            scored=expected_scored(family, tokens),
            active=plan.active_layers(plan.begin),
            dtype=compute_dtype(self.ds_config),
            recomputed=self.recipe.activation_checkpointing,
            with_loss=self.recipe.fused_linear_cross_entropy,
            vocab_divisible_by=self.recipe.make_vocab_size_divisible_by,
            router_losses=sum(weight > 0 for weight in router_weights(self.recipe.router, config)),
        )

    def rates(self, plan: StagePlan) -> tuple[float, float, float]:
        """The learning rate at a stage's first step, at its highest, and at its last step."""
        training_plan = self.planned.training_plan
        _, schedule, first, _ = training_plan.scheduled(plan)
        climbed = {first + schedule.warmup_steps - 1, first + schedule.warmup_steps, plan.begin + plan.stage.warmup_steps - 1}
        evenly = np.linspace(plan.begin, plan.end - 1, _RATES_LOOKED_AT).round().astype(int).tolist()
        steps = sorted({step for step in climbed | set(evenly) if plan.begin <= step < plan.end})
        rates = [training_plan.rate_factor(plan, step) * (plan.stage.lr or self.recipe.optimizer.lr) for step in steps]
        return rates[0], max(rates), rates[-1]

    def scratch_flops(self) -> int:
        """Model FLOPs of the last model trained from scratch, all of it, on the tokens of all stages."""
        whole, last = {"submodel_layers": None, "trainable": None}, self.stages[-1]
        config = self.config(last.phase)
        alike = [
            replace(
                plan, stage=plan.stage.model_copy(update=whole), phase=last.phase, layers=last.layers, mixtures=last.mixtures
            )
            for plan in self.stages
        ]
        return sum(stage_flops(self.recipe, config, plan).model_total for plan in alike)


def _check_place(path: Path) -> None:
    """Raise what the system would where a directory cannot be made, or written to: OSError naming it."""
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists() or place.is_symlink())
    if not nearest.is_dir():
        number = errno.EEXIST if nearest == path else errno.ENOTDIR
    elif not os.access(nearest, os.W_OK | os.X_OK):
        number = errno.EACCES
    else:
        return
    raise OSError(number, os.strerror(number), str(path))
