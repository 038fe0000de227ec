"""What a dry run comes to, as a page of text."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from transformers import PretrainedConfig

from data_prep.manifest import TRAIN
from pipeline.families import graph_of, sizes_of
from pipeline.flops.counts import PARTS, StepFlops
from pipeline.growth.expectations import expectations
from pipeline.growth.memory import RankBytes
from pipeline.recipe import TrainStage
from pipeline.training.ds_config import compute_dtype, data_parallel_size, zero_stage
from pipeline.training.footprint import memory_by_stage, parameters_by_kind
from pipeline.training.monitoring.progress import duration
from pipeline.training.plan.training_plan import StagePlan
from pipeline.training.preparation.preparation import PlannedOnText
from pipeline.training.run.dry_run import DryRun
from pipeline.training.width_rates import described

_UNITS = {"GiB": 2**30, "MiB": 2**20}

_BUCKET = 500_000_000
"""Elements of a bucket of gradients where DeepSpeed's file does not say (`reduce_bucket_size`)."""


class DryRunPage:
    """A preview of a run, for a person."""

    def __init__(self, run: DryRun) -> None:
        self._run = run
        self._planned = run.planned
        self._plans = run.planned.training_plan.stages

    def render(self) -> str:
        """Return all of it as a page of text."""
        flops = self._run.flops()
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
        dtype = compute_dtype(self._run.ds_config)
        zero = self._run.ds_config.get("zero_optimization", {})
        to_host = {key: zero.get(f"offload_{key}", {}).get("device", "none") != "none" for key in ("optimizer", "param")}
        phases = self._run.recipe.phases
        from_scratch = self._from_scratch()
        for phase in phases[1:] if from_scratch else phases:
            config = self._planned.config(phase.number)
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
            if self._run.recipe.optimizer.width_rates != "none":
                yield f"  rates       {described(graph_of(config), self._run.recipe.optimizer)}"
            if from_scratch and phase.number == 1:
                yield "  starts      from random weights"
            elif phase.number:
                yield from self._growth(phase.number)
            elif self._planned.given is not None:
                yield from (f"  source      {remark}" for remark in self._planned.given.remarks)
            if not phase.stages:
                given = phase.number or self._planned.given is not None
                yield f"  {'comes trained' if given else 'stays at its random initialization'}, and is not trained here"
            else:
                by_stage = memory_by_stage(config, self._run.recipe.optimizer, dtype, self._run.ranks)
                unit = "GiB" if by_stage[0].total >= _UNITS["GiB"] else "MiB"
                head = f"  {unit} a rank   weights  gradients   masters   moments  stepping"
                away = "disk" if zero.get("offload_optimizer", {}).get("device") == "nvme" else "host"
                yield head + (f"    device      {away}" if any(to_host.values()) else "     total")
                for stage, kept in by_stage.items():
                    yield self._memory_line(stage, kept, to_host, _UNITS[unit])
            yield ""

    def _from_scratch(self) -> bool:
        """Whether the first model is trained at its own sizes only, so that it is not grown."""
        if self._planned.given is not None or self._run.recipe.phases[0].stages:
            return False
        return self._planned.config(0).to_dict() == self._planned.config(1).to_dict()

    def _growth(self, number: int) -> Iterator[str]:
        plan = self._planned.growths[number - 1].plan
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
        return line + ("  <- this run's" if stage == zero_stage(self._run.ds_config) else "")

    def _stages(self, flops: list[StepFlops]) -> Iterator[str]:
        stages = self._plans
        width = max(len(plan.stage.name) for plan in stages) + 2
        yield (
            f"{'stage':<{width}}{'steps':>10}{'tokens':>18}{'epochs':>10}  {'batch':<18}{'activations':>12}{'model FLOPs':>13}"
            f"{'executed':>12}{'time':>12}  learning rate: first, highest, last step"
        )
        known = all(map(self._run.resolved, stages))
        for plan, came in zip(stages, flops, strict=True):
            groups = data_parallel_size(self._run.ds_config, self._run.ranks)
            batch = f"{plan.micro_batch_size} x {plan.accumulation} x {groups} = {plan.batch_size}"
            steps = plan.end - plan.begin
            line = [f"{plan.stage.name:<{width}}"]
            if self._run.resolved(plan):
                windows = None if self._planned.windows is None else self._planned.windows(plan.mix)
                epochs = "?" if windows is None else f"{steps * plan.batch_size / windows:.3g}"
                line += [f"{steps:>10,}{steps * plan.tokens:>18,}{epochs:>10}"]
            else:
                line += [f"{'?':>10}{'?':>18}{plan.stage.epochs:>10g}"]
            line += [f"  {batch:<18}{self._bytes(self._run.activations(plan)):>12}"]
            line += [f"{came.model_total:>13.3e}{came.executed_total:>12.3e}"]
            line += [f"{duration(self._run.seconds(came)) if self._run.resolved(plan) else 'each step':>12}"]
            # A rate depends on all steps of the span of its schedule.
            rates = (
                " -> ".join(f"{rate:.2e}" for rate in self._run.rates(plan))
                if known
                else f"peak {plan.stage.lr or self._run.recipe.optimizer.lr:.2e}"
            )
            yield "".join(line) + f"  {rates}"
        if known:
            whole = sum(flops, StepFlops())
            tokens = sum((plan.end - plan.begin) * plan.tokens for plan in stages)
            yield (
                f"{'total':<{width}}{stages[-1].end:>10,}{tokens:>18,}{'':>10}  {'':<30}{whole.model_total:>13.3e}"
                f"{whole.executed_total:>12.3e}{duration(self._run.seconds(whole)):>12}"
            )
        yield ""

    def _trained(self, flops: list[StepFlops]) -> Iterator[str]:
        """What each stage trains and its share of the whole, and what the last model from scratch would cost beside it."""
        stages = self._plans
        known = all(map(self._run.resolved, stages))
        whole = sum(came.model_total for came in flops)
        rows = [("stage", "model", "parameters", "learns", "of all FLOPs" if known else "")]
        for plan, came in zip(stages, flops, strict=True):
            config = self._planned.config(plan.phase)
            share = f"{came.model_total / whole:.1%}" if known else ""
            rows.append((plan.stage.name, _size(config), f"{_parameters(config):,}", _learns(plan.stage), share))
        widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
        for name, model, parameters, learns, share in rows:
            line = f"{name:<{widths[0]}}{model:<{widths[1]}}{parameters:>{widths[2] - 2}}  {learns:<{widths[3]}}"
            yield f"{line}{share:>{widths[4] - 2}}".rstrip()
        scratch = self._run.scratch_flops()
        if known and scratch != whole:
            without = "" if self._planned.given is None else ", without its source's own training"
            yield (
                f"scratch   {_size(self._planned.config(stages[-1].phase))} for as many tokens: {scratch:.3e} model "
                f"FLOPs; this run comes to {whole / scratch:.1%} of scratch's{without}"
            )
        yield ""

    def _largest(self) -> str:
        """The stage that asks a rank for most memory, and for how much."""
        stage, dtype = zero_stage(self._run.ds_config), compute_dtype(self._run.ds_config)

        def kept(plan: StagePlan) -> int:
            return memory_by_stage(self._planned.config(plan.phase), self._run.recipe.optimizer, dtype, self._run.ranks)[
                stage
            ].total

        plan = max(self._plans, key=lambda plan: kept(plan) + self._run.activations(plan))
        return (
            f"largest   stage {plan.stage.name}: {self._bytes(kept(plan))} a rank of weights, gradients and optimizer, what is "
            f"offloaded included (ZeRO {stage}), and {self._bytes(self._run.activations(plan))} of activations"
        )

    @staticmethod
    def _bytes(count: int) -> str:
        unit = "GiB" if count >= _UNITS["GiB"] else "MiB"
        return f"{count / _UNITS[unit]:.2f} {unit}"

    def _by_part(self, flops: list[StepFlops]) -> Iterator[str]:
        stages = self._plans
        names = [plan.stage.name if self._run.resolved(plan) else f"{plan.stage.name}, a step" for plan in stages]
        rows = list(zip(names, flops, strict=True))
        if all(map(self._run.resolved, stages)):
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
        for plan, came, all_of_them in zip(self._plans, flops, self._run.flops(every_expert=True), strict=True):
            if came != all_of_them:
                step = "" if self._run.resolved(plan) else ", a step"
                yield (
                    f"experts   {plan.stage.name}{step}: {came.model_total:.3e} model FLOPs by the experts that are chosen, "
                    f"{all_of_them.model_total:.3e} by all of them"
                )

    def _notes(self) -> Iterator[str]:
        here = "" if self._run.device.peak.origin == "recipe" else " (set flops.peak_tflops for another device)"
        devices = f"{self._run.ranks} x {self._run.device.words}{here}"
        yield f"time      at an MFU of {self._run.mfu:.0%} on {devices}, without evaluation and saving"
        dtype = self._run.device.dtype
        most = max(_parameters(self._planned.config(plan.phase)) for plan in self._plans)
        bucket = min(self._run.ds_config.get("zero_optimization", {}).get("reduce_bucket_size", _BUCKET), most) * dtype.itemsize
        yield (
            f"memory    weights and gradients in {str(dtype).removeprefix('torch.')}, without a micro-batch's activations, "
            f"as PyTorch's own kernels keep them, gathered layers, and a bucket of gradients, {self._bytes(bucket)} or less"
        )
        yield "          stepping: gradients in float32 while they are stepped; batch: micro-batch x accumulation x ranks"
        yield self._largest()
        yield f"data      {self._data()}"
        yield from self._disk()
        if self._run.reached:
            yield f"run_dir   {self._run.recipe.run_dir} holds this run up to step {self._run.reached:,}"

    def _disk(self) -> Iterator[str]:
        """What the checkpoints take, of the space that there is; one is written before the oldest goes."""
        largest = max((self._planned.config(plan.phase) for plan in self._plans), key=_parameters)
        kept = memory_by_stage(largest, self._run.recipe.optimizer, compute_dtype(self._run.ds_config), 1)[3]
        # Masters are written in float32 even where they are the weights themselves.
        one = kept.moments + max(kept.masters + kept.weights, 4 * _parameters(largest))
        count, place = self._run.recipe.checkpointing.keep + 1, Path(self._run.recipe.run_dir).absolute()
        free = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
        yield (
            f"disk      a checkpoint takes {self._bytes(one)}, {count} at once {self._bytes(count * one)}; "
            f"{self._bytes(free)} are free in {self._run.recipe.run_dir}"
        )
        if free < count * one:
            yield "          warning: that is not enough; free disk space, name another run_dir, or lower checkpointing.keep"

    def _data(self) -> str:
        planned = self._planned
        if isinstance(planned, PlannedOnText):
            tokens = Counter({corpus.name: corpus.splits[TRAIN].tokens for corpus in planned.data.corpora})
            shards = sum(len(split.shards) for corpus in planned.data.corpora for split in corpus.splits.values())
            return (
                f"{planned.data.directory}: {shards} shards open, {sum(tokens.values()):,} tokens to train on "
                f"({', '.join(f'{name} {count:,}' for name, count in tokens.items())}), "
                f"a tokenizer of {planned.data.tokenizer.vocab_size:,} ids"
            )
        if self._run.corpus_tokens is not None:
            return f"not looked at; taken to be {self._run.corpus_tokens:,} tokens to train on"
        unknown = [plan.stage.name for plan in planned.training_plan.stages if not self._run.resolved(plan)]
        known = "the text is there and not prepared yet"
        if not unknown:
            return f"{known}: how many epochs the stages are is not known"
        return f"{known}: the steps of {', '.join(unknown)} are not known; --corpus_tokens N says how long it is"


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
