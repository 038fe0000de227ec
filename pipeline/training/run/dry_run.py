"""A preview of a run without training: models, memory, FLOPs, time; by the checks that a run begins with."""

import copy
import errno
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PretrainedConfig

from data_prep.manifest import TRAIN
from pipeline.families import family_of, graph_of, sizes_of
from pipeline.flops.activations import activation_bytes
from pipeline.flops.counts import PARTS, StepFlops
from pipeline.growth.expectations import expectations
from pipeline.growth.memory import RankBytes
from pipeline.recipe import Recipe, TrainStage
from pipeline.training.directory.checkpoints import Checkpoints
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.ds_config import compute_dtype, data_parallel_size, sequence_parallel_size, zero_stage
from pipeline.training.footprint import memory_by_stage, parameters_by_kind
from pipeline.training.loop.balance import router_weights
from pipeline.training.monitoring.progress import duration
from pipeline.training.monitoring.utilization import Device
from pipeline.training.plan.training_plan import StagePlan, expected_scored
from pipeline.training.plan.workload import stage_flops
from pipeline.training.preparation.preparation import Planned, PlannedOnText, preview_run
from pipeline.training.width_rates import described

logger = logging.getLogger(__name__)

_UNITS = {"GiB": 2**30, "MiB": 2**20}

_BUCKET = 500_000_000
"""Elements of a bucket of gradients where DeepSpeed's file does not say (`reduce_bucket_size`)."""

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
    def of(
        cls,
        recipe: Recipe,
        ds_config: dict[str, Any],
        ranks: int,
        mfu: float,
        corpus_tokens: int | None,
    ) -> "DryRun":
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

    def resolved(self, plan: StagePlan) -> bool:
        """Whether the steps of a stage are known."""
        return plan.stage.epochs is None or self.planned.windows is not None

    def flops(self, *, every_expert: bool = False) -> list[StepFlops]:
        """FLOPs by stage; of one step, on average, where the steps are not known.

        `every_expert`: as if each token went through all experts of a mixture.
        """
        return [self._stage_flops(plan, every_expert) for plan in self.planned.training_plan.stages]

    def _stage_flops(self, plan: StagePlan, every_expert: bool) -> StepFlops:
        config = self.planned.config(plan.phase)
        if self.resolved(plan):
            return stage_flops(self.recipe, config, plan, every_expert=every_expert)
        shorter = replace(plan, end=plan.begin + _STEPS_ON_AVERAGE)
        some = stage_flops(self.recipe, config, shorter, every_expert=every_expert)
        model, executed = ({part: each[part] // _STEPS_ON_AVERAGE for part in PARTS} for each in (some.model, some.executed))
        return StepFlops(model, executed)

    def seconds(self, flops: StepFlops) -> float:
        """The time of so many model FLOPs at the MFU asked about."""
        return flops.model_total / (self.mfu * self.ranks * self.device.peak.flops_per_second)

    def activations(self, plan: StagePlan) -> int:
        """Bytes that a rank keeps of a micro-batch for its backward pass; of a sub-model of any depth they are as many."""
        config = copy.copy(self.planned.config(plan.phase))
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

    def render(self) -> str:
        """Return all of it as a page of text."""
        flops = self.flops()
        return "\n".join(
            [
                *self._models(),
                *self._stages(flops),
                *self._trained(flops),
                *self._by_part(flops),
                *self._dense_equivalent(flops),
                *self._notes(),
            ]
        )

    def _models(self) -> Iterator[str]:
        dtype = compute_dtype(self.ds_config)
        zero = self.ds_config.get("zero_optimization", {})
        to_host = {key: zero.get(f"offload_{key}", {}).get("device", "none") != "none" for key in ("optimizer", "param")}
        phases = self.recipe.phases
        from_scratch = self._from_scratch()
        for phase in phases[1:] if from_scratch else phases:
            config = self.planned.config(phase.number)
            sizes, kinds = sizes_of(config), parameters_by_kind(config)
            total = sum(kinds.values())
            yield (
                f"{'model' if from_scratch and phase.number == 1 else phase.name}: {config.model_type}, {_size(config)} "
                f"({sizes.num_attention_heads} heads of {sizes.head_dim}, {sizes.num_key_value_heads} for keys and values), "
                f"FFN {sizes.intermediate_size}, {sizes.vocab_size:,} ids, {sizes.max_position_embeddings:,} positions"
            )
            tied = ", the output matrix among the embeddings" if sizes.tied else ""
            yield f"  parameters  {total:,}, {total - kinds['embeddings']:,} without embeddings{tied}"
            if sizes.num_experts is not None:
                chosen = f"a token goes through {sizes.num_experts_per_tok} of {sizes.num_experts} experts a layer"
                yield f"  active      {graph_of(config).active_parameters:,}: {chosen}"
            yield "              " + ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())
            if self.recipe.optimizer.width_rates != "none":
                yield f"  rates       {described(graph_of(config), self.recipe.optimizer)}"
            if from_scratch and phase.number == 1:
                yield "  starts      from random weights"
            elif phase.number:
                yield from self._growth(phase.number)
            elif self.planned.given is not None:
                yield from (f"  source      {remark}" for remark in self.planned.given.remarks)
            if not phase.stages:
                given = phase.number or self.planned.given is not None
                yield f"  {'comes trained' if given else 'stays at its random initialization'}, and is not trained here"
            else:
                by_stage = memory_by_stage(config, self.recipe.optimizer, dtype, self.ranks)
                unit = "GiB" if by_stage[0].total >= _UNITS["GiB"] else "MiB"
                head = f"  {unit} a rank   weights  gradients   masters   moments  stepping"
                away = "disk" if zero.get("offload_optimizer", {}).get("device") == "nvme" else "host"
                yield head + (f"    device      {away}" if any(to_host.values()) else "     total")
                for stage, kept in by_stage.items():
                    yield self._memory_line(stage, kept, to_host, _UNITS[unit])
            yield ""

    def _from_scratch(self) -> bool:
        """Whether the first model is trained at its own sizes only, so that it is not grown."""
        if self.planned.given is not None or self.recipe.phases[0].stages:
            return False
        return self.planned.config(0).to_dict() == self.planned.config(1).to_dict()

    def _growth(self, number: int) -> Iterator[str]:
        plan = self.planned.growths[number - 1].plan
        first, *others = [f"{plan.growth.width} + {plan.growth.depth}", *expectations(plan)]
        yield f"  growth      {first}"
        yield from (f"              {line}" for line in others)

    def _memory_line(self, stage: int, kept: RankBytes, to_host: dict[str, bool], unit: int) -> str:
        host = 0
        if stage and to_host["optimizer"]:
            host += kept.masters + kept.moments + kept.stepping + (kept.gradients if stage > 1 else 0)
        if stage == 3 and to_host["param"]:
            host += kept.weights
        parts = [kept.weights, kept.gradients, kept.masters, kept.moments, kept.stepping, kept.total - host]
        if any(to_host.values()):
            parts.append(host)
        line = f"  ZeRO {stage}    " + "".join(f"{part / unit:>10.2f}" for part in parts)
        return line + ("  <- this run's" if stage == zero_stage(self.ds_config) else "")

    def _stages(self, flops: list[StepFlops]) -> Iterator[str]:
        stages = self.planned.training_plan.stages
        width = max(len(plan.stage.name) for plan in stages) + 2
        yield (
            f"{'stage':<{width}}{'steps':>10}{'tokens':>18}{'epochs':>10}  {'batch':<18}{'activations':>12}{'model FLOPs':>13}"
            f"{'executed':>12}{'time':>12}  learning rate: first, highest, last step"
        )
        known = all(map(self.resolved, stages))
        for plan, came in zip(stages, flops, strict=True):
            groups = data_parallel_size(self.ds_config, self.ranks)
            batch = f"{plan.micro_batch_size} x {plan.accumulation} x {groups} = {plan.batch_size}"
            steps = plan.end - plan.begin
            line = [f"{plan.stage.name:<{width}}"]
            if self.resolved(plan):
                windows = None if self.planned.windows is None else self.planned.windows(plan.mix)
                epochs = "?" if windows is None else f"{steps * plan.batch_size / windows:.3g}"
                line += [f"{steps:>10,}{steps * plan.tokens:>18,}{epochs:>10}"]
            else:
                line += [f"{'?':>10}{'?':>18}{plan.stage.epochs:>10g}"]
            line += [f"  {batch:<18}{self._bytes(self.activations(plan)):>12}"]
            line += [f"{came.model_total:>13.3e}{came.executed_total:>12.3e}"]
            line += [f"{duration(self.seconds(came)) if self.resolved(plan) else 'each step':>12}"]
            # A rate depends on all steps of the span of its schedule.
            rates = (
                " -> ".join(f"{rate:.2e}" for rate in self.rates(plan))
                if known
                else f"peak {plan.stage.lr or self.recipe.optimizer.lr:.2e}"
            )
            yield "".join(line) + f"  {rates}"
        if known:
            whole = sum(flops, StepFlops())
            tokens = sum((plan.end - plan.begin) * plan.tokens for plan in stages)
            yield (
                f"{'total':<{width}}{stages[-1].end:>10,}{tokens:>18,}{'':>10}  {'':<30}{whole.model_total:>13.3e}"
                f"{whole.executed_total:>12.3e}{duration(self.seconds(whole)):>12}"
            )
        yield ""

    def _trained(self, flops: list[StepFlops]) -> Iterator[str]:
        """What each stage trains and its share of the whole, and what the last model from scratch would cost beside it."""
        stages = self.planned.training_plan.stages
        known = all(map(self.resolved, stages))
        whole = sum(came.model_total for came in flops)
        rows = [("stage", "model", "parameters", "learns", "of all FLOPs" if known else "")]
        for plan, came in zip(stages, flops, strict=True):
            config = self.planned.config(plan.phase)
            share = f"{came.model_total / whole:.1%}" if known else ""
            rows.append((plan.stage.name, _size(config), f"{_parameters(config):,}", _learns(plan.stage), share))
        widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
        for name, model, parameters, learns, share in rows:
            line = f"{name:<{widths[0]}}{model:<{widths[1]}}{parameters:>{widths[2] - 2}}  {learns:<{widths[3]}}"
            yield f"{line}{share:>{widths[4] - 2}}".rstrip()
        scratch = self.scratch_flops()
        if known and scratch != whole:
            without = "" if self.planned.given is None else ", its source's own training aside"
            yield (
                f"scratch   {_size(self.planned.config(stages[-1].phase))} for as many tokens: {scratch:.3e} model "
                f"FLOPs; this run comes to {whole / scratch:.1%} of scratch's{without}"
            )
        yield ""

    def scratch_flops(self) -> int:
        """Model FLOPs of the last model trained from scratch, all of it, on the tokens of all stages."""
        stages = self.planned.training_plan.stages
        config = self.planned.config(stages[-1].phase)
        whole, last = {"submodel_layers": None, "trainable": None}, stages[-1]
        alike = [
            replace(
                plan,
                stage=plan.stage.model_copy(update=whole),
                phase=last.phase,
                layers=last.layers,
                mixtures=last.mixtures,
            )
            for plan in stages
        ]
        return sum(stage_flops(self.recipe, config, plan).model_total for plan in alike)

    def _largest(self) -> str:
        """The stage that asks a rank for most memory, and for how much."""
        stage, dtype = zero_stage(self.ds_config), compute_dtype(self.ds_config)

        def kept(plan: StagePlan) -> int:
            return memory_by_stage(self.planned.config(plan.phase), self.recipe.optimizer, dtype, self.ranks)[stage].total

        plan = max(self.planned.training_plan.stages, key=lambda plan: kept(plan) + self.activations(plan))
        return (
            f"largest   stage {plan.stage.name}: {self._bytes(kept(plan))} a rank of weights, gradients and optimizer, what is "
            f"offloaded included (ZeRO {stage}), and {self._bytes(self.activations(plan))} of activations"
        )

    @staticmethod
    def _bytes(count: int) -> str:
        unit = "GiB" if count >= _UNITS["GiB"] else "MiB"
        return f"{count / _UNITS[unit]:.2f} {unit}"

    def _by_part(self, flops: list[StepFlops]) -> Iterator[str]:
        stages = self.planned.training_plan.stages
        names = [plan.stage.name if self.resolved(plan) else f"{plan.stage.name}, a step" for plan in stages]
        rows = list(zip(names, flops, strict=True))
        if all(map(self.resolved, stages)):
            rows.append(("total", sum(flops, StepFlops())))
        width = max(24, *(len(name) + 2 for name, _ in rows))
        tables = [("model FLOPs by part", "model"), ("executed FLOPs by part", "executed")]
        for label, key in tables if any(came.model != came.executed for came in flops) else tables[:1]:
            yield f"{label:<{width}}" + "".join(f"{part.replace('_', ' '):>23}" for part in PARTS)
            for name, came in rows:
                yield f"{name:<{width}}" + "".join(f"{getattr(came, key)[part]:>23.3e}" for part in PARTS)
            yield ""

    def _dense_equivalent(self, flops: list[StepFlops]) -> Iterator[str]:
        """What stages of mixtures of experts would come to that ran every expert for every token."""
        for plan, came, all_of_them in zip(
            self.planned.training_plan.stages, flops, self.flops(every_expert=True), strict=True
        ):
            if came != all_of_them:
                step = "" if self.resolved(plan) else ", a step"
                yield (
                    f"experts   {plan.stage.name}{step}: {came.model_total:.3e} model FLOPs by the experts that are chosen, "
                    f"{all_of_them.model_total:.3e} by all of them"
                )

    def _notes(self) -> Iterator[str]:
        here = "" if self.device.peak.origin == "recipe" else " (set flops.peak_tflops for another device)"
        yield f"time      at an MFU of {self.mfu:.0%} on {self.ranks} x {self.device.words}{here}; evaluation and saving aside"
        dtype = self.device.dtype
        most = max(_parameters(self.planned.config(plan.phase)) for plan in self.planned.training_plan.stages)
        bucket = min(self.ds_config.get("zero_optimization", {}).get("reduce_bucket_size", _BUCKET), most) * dtype.itemsize
        yield (
            f"memory    weights and gradients in {str(dtype).removeprefix('torch.')}; aside: a micro-batch's activations, "
            f"as PyTorch's own kernels keep them, gathered layers, and a bucket of gradients, {self._bytes(bucket)} or less"
        )
        yield "          stepping: gradients in float32 while they are stepped; batch: micro-batch x accumulation x ranks"
        yield self._largest()
        yield f"data      {self._data()}"
        yield from self._disk()
        if self.reached:
            yield f"run_dir   {self.recipe.run_dir} holds this run up to step {self.reached:,}"

    def _disk(self) -> Iterator[str]:
        """What the checkpoints take, of the space that there is; one is written before the oldest goes."""
        largest = max((self.planned.config(plan.phase) for plan in self.planned.training_plan.stages), key=_parameters)
        kept = memory_by_stage(largest, self.recipe.optimizer, compute_dtype(self.ds_config), 1)[3]
        # Masters are written in float32 even where they are the weights themselves.
        one = kept.moments + max(kept.masters + kept.weights, 4 * _parameters(largest))
        count, place = self.recipe.checkpointing.keep + 1, Path(self.recipe.run_dir).absolute()
        free = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
        yield (
            f"disk      a checkpoint takes {self._bytes(one)}, {count} at once {self._bytes(count * one)}; "
            f"{self._bytes(free)} are free in {self.recipe.run_dir}"
        )
        if free < count * one:
            yield "          warning: that is not enough; make room, name another run_dir, or lower checkpointing.keep"

    def _data(self) -> str:
        planned = self.planned
        if isinstance(planned, PlannedOnText):
            tokens = Counter({corpus.name: corpus.splits[TRAIN].tokens for corpus in planned.data.corpora})
            shards = sum(len(split.shards) for corpus in planned.data.corpora for split in corpus.splits.values())
            return (
                f"{planned.data.directory}: {shards} shards open, {sum(tokens.values()):,} tokens to train on "
                f"({', '.join(f'{name} {count:,}' for name, count in tokens.items())}), "
                f"a tokenizer of {planned.data.tokenizer.vocab_size:,} ids"
            )
        if self.corpus_tokens is not None:
            return f"not looked at; taken to be {self.corpus_tokens:,} tokens to train on"
        unknown = [plan.stage.name for plan in planned.training_plan.stages if not self.resolved(plan)]
        known = "the text is there and not prepared yet"
        if not unknown:
            return f"{known}: how many epochs the stages are is not known"
        return f"{known}: the steps of {', '.join(unknown)} are not known; --corpus_tokens N says how long it is"


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


def _size(config: PretrainedConfig) -> str:
    sizes = sizes_of(config)
    return f"{sizes.num_hidden_layers} layer{'s' if sizes.num_hidden_layers > 1 else ''} x {sizes.hidden_size}"


def _learns(stage: TrainStage) -> str:
    """What of its model a stage trains, in words."""
    if stage.submodel_layers is not None:
        return f"sub-models' top {stage.submodel_layers} layers and head"
    return "everything" if stage.trainable is None else ", ".join(stage.trainable)


def _parameters(config: PretrainedConfig) -> int:
    return sum(parameters_by_kind(config).values())
