"""What a dry run comes to, as a page of text."""

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import PretrainedConfig

from data_prep.manifest import TRAIN
from pipeline.families import graph_of, sizes_of
from pipeline.flops.counts import PARTS, StepFlops
from pipeline.growth.certificate import expectations
from pipeline.growth.memory import RankBytes
from pipeline.recipe import ModelPhase, TrainStage
from pipeline.training.ds_config import data_parallel_size, zero_stage
from pipeline.training.footprint import parameters_by_kind
from pipeline.training.monitoring.progress import duration
from pipeline.training.plan.training_plan import StagePlan
from pipeline.training.preparation.preparation import PlannedOnText
from pipeline.training.run.dry_run import DryRun
from pipeline.training.width_rates import described

_UNITS = {"GiB": 2**30, "MiB": 2**20}

_BUCKET = 500_000_000
"""Elements of a bucket of gradients where DeepSpeed's file does not say (`reduce_bucket_size`)."""


def page_of(run: DryRun) -> str:
    """Return a preview of a run as a page of text."""
    flops = run.flops()
    first, *others = run.recipe.phases
    # A model that is trained at its own sizes only is not grown.
    from_scratch = run.planned.given is None and not first.stages and run.config(0).to_dict() == run.config(1).to_dict()
    parts = (
        *(_model(run, phase, from_scratch=from_scratch) for phase in (others if from_scratch else run.recipe.phases)),
        _stages(run, flops),
        _trained(run, flops),
        _by_part(run, flops),
        _dense_equivalent(run, flops),
        notes(run),
    )
    return "\n".join(itertools.chain(*parts))


def _model(run: DryRun, phase: ModelPhase, *, from_scratch: bool) -> Iterator[str]:
    """A model and what it comes from; of a run `from_scratch` the first one is not grown."""
    config, given = run.config(phase.number), run.planned.given
    begins = from_scratch and phase.number == 1
    sizes, kinds = sizes_of(config), parameters_by_kind(config)
    total = sum(kinds.values())
    yield (
        f"{'model' if begins else phase.name}: {config.model_type}, {_size(config)} "
        f"({sizes.num_attention_heads} heads of {sizes.head_dim}, {sizes.num_key_value_heads} for keys and values), "
        f"FFN {sizes.intermediate_size}, {sizes.vocab_size:,} ids, {sizes.max_position_embeddings:,} positions"
    )
    tied = ", the output matrix among the embeddings" if sizes.tied else ""
    yield f"  parameters  {total:,}, {total - kinds['embeddings']:,} without embeddings{tied}"
    if sizes.num_experts is not None:
        chosen = f"a token goes through {sizes.num_experts_per_tok} of {sizes.num_experts} experts a layer"
        yield f"  active      {graph_of(config).active_parameters:,}: {chosen}"
    yield "              " + ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())
    if run.recipe.optimizer.width_rates != "none":
        yield f"  rates       {described(graph_of(config), run.recipe.optimizer)}"
    if begins:
        yield "  starts      from random weights"
    elif phase.number:
        plan = run.planned.growths[phase.number - 1].plan
        yield f"  growth      {plan.growth.width} + {plan.growth.depth}"
        yield from (f"              {line}" for line in expectations(plan))
    elif given is not None:
        yield from (f"  source      {remark}" for remark in given.remarks)
    if phase.stages:
        yield from _memory(run, run.memory(config))
    else:
        trained = "comes trained" if phase.number or given is not None else "stays at its random initialization"
        yield f"  {trained}, and is not trained here"
    yield ""


def _memory(run: DryRun, by_stage: dict[int, RankBytes]) -> Iterator[str]:
    """What a rank keeps at each stage of ZeRO, and where."""
    zero = run.ds_config.get("zero_optimization", {})
    away = {key: zero.get(f"offload_{key}", {}).get("device", "none") for key in ("optimizer", "param")}
    offloads = set(away.values()) != {"none"}
    unit = _unit(by_stage[0].total)
    ending = f"    device      {'disk' if away['optimizer'] == 'nvme' else 'host'}" if offloads else "     total"
    yield f"  {unit} a rank   weights  gradients   masters   moments  stepping{ending}"
    for stage, kept in by_stage.items():
        host = 0
        if stage and away["optimizer"] != "none":
            host += kept.masters + kept.moments + kept.stepping + (kept.gradients if stage > 1 else 0)
        if stage == 3 and away["param"] != "none":
            host += kept.weights
        columns = [kept.weights, kept.gradients, kept.masters, kept.moments, kept.stepping, kept.total - host]
        columns += [host] * offloads
        line = f"  ZeRO {stage}    " + "".join(f"{column / _UNITS[unit]:>10.2f}" for column in columns)
        yield line + ("  <- this run's" if stage == zero_stage(run.ds_config) else "")


def _stages(run: DryRun, flops: list[StepFlops]) -> Iterator[str]:
    width = max(len(plan.stage.name) for plan in run.stages) + 2
    yield (
        f"{'stage':<{width}}{'steps':>10}{'tokens':>18}{'epochs':>10}  {'batch':<18}{'activations':>12}{'model FLOPs':>13}"
        f"{'executed':>12}{'time':>12}  learning rate: first, highest, last step"
    )
    groups = data_parallel_size(run.ds_config, run.ranks)
    for plan, came in zip(run.stages, flops, strict=True):
        batch = f"{plan.micro_batch_size} x {plan.accumulation} x {groups} = {plan.batch_size}"
        steps, tokens, epochs, time = "?", "?", f"{plan.stage.epochs or 0:g}", "each step"
        if run.resolved(plan):
            count, windows = plan.end - plan.begin, run.planned.windows
            steps, tokens, time = f"{count:,}", f"{count * plan.tokens:,}", duration(run.seconds(came))
            epochs = "?" if windows is None else f"{count * plan.batch_size / windows(plan.mix):.3g}"
        # A rate depends on all steps of the span of its schedule.
        rates = (
            " -> ".join(f"{rate:.2e}" for rate in run.rates(plan))
            if run.all_resolved
            else f"peak {plan.stage.lr or run.recipe.optimizer.lr:.2e}"
        )
        yield (
            f"{plan.stage.name:<{width}}{steps:>10}{tokens:>18}{epochs:>10}  {batch:<18}{_bytes(run.activations(plan)):>12}"
            f"{came.model_total:>13.3e}{came.executed_total:>12.3e}{time:>12}  {rates}"
        )
    if run.all_resolved:
        whole, read = sum(flops, StepFlops()), sum((plan.end - plan.begin) * plan.tokens for plan in run.stages)
        yield (
            f"{'total':<{width}}{run.stages[-1].end:>10,}{read:>18,}{'':>42}{whole.model_total:>13.3e}"
            f"{whole.executed_total:>12.3e}{duration(run.seconds(whole)):>12}"
        )
    yield ""


def _trained(run: DryRun, flops: list[StepFlops]) -> Iterator[str]:
    """What each stage trains and its share of the whole, and what the last model from scratch would cost beside it."""
    whole = sum(came.model_total for came in flops)
    rows = [("stage", "model", "parameters", "learns", "of all FLOPs" if run.all_resolved else "")]
    for plan, came in zip(run.stages, flops, strict=True):
        config = run.config(plan.phase)
        share = f"{came.model_total / whole:.1%}" if run.all_resolved else ""
        rows.append((plan.stage.name, _size(config), f"{_parameters(config):,}", _learns(plan.stage), share))
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    for name, model, parameters, learns, share in rows:
        line = f"{name:<{widths[0]}}{model:<{widths[1]}}{parameters:>{widths[2] - 2}}  {learns:<{widths[3]}}"
        yield f"{line}{share:>{widths[4] - 2}}".rstrip()
    scratch = run.scratch_flops()
    if run.all_resolved and scratch != whole:
        without = "" if run.planned.given is None else ", without its source's own training"
        yield (
            f"scratch   {_size(run.config(run.stages[-1].phase))} for as many tokens: {scratch:.3e} model "
            f"FLOPs; this run comes to {whole / scratch:.1%} of scratch's{without}"
        )
    yield ""


def _by_part(run: DryRun, flops: list[StepFlops]) -> Iterator[str]:
    rows = list(zip(_names(run), flops, strict=True))
    if run.all_resolved:
        rows.append(("total", sum(flops, StepFlops())))
    width = max(24, *(len(name) + 2 for name, _ in rows))
    tables = [("model FLOPs by part", "model"), ("executed FLOPs by part", "executed")]
    for label, key in tables if any(came.model != came.executed for came in flops) else tables[:1]:
        yield f"{label:<{width}}" + "".join(f"{part.replace('_', ' '):>23}" for part in PARTS)
        for name, came in rows:
            yield f"{name:<{width}}" + "".join(f"{getattr(came, key)[part]:>23.3e}" for part in PARTS)
        yield ""


def _names(run: DryRun) -> Sequence[str]:
    """The stages, of those whose steps are not known one step."""
    return [plan.stage.name if run.resolved(plan) else f"{plan.stage.name}, a step" for plan in run.stages]


def _dense_equivalent(run: DryRun, flops: list[StepFlops]) -> Iterator[str]:
    """What stages of mixtures of experts would come to that ran every expert for every token."""
    for name, came, all_of_them in zip(_names(run), flops, run.flops(every_expert=True), strict=True):
        if came != all_of_them:
            yield (
                f"experts   {name}: {came.model_total:.3e} model FLOPs by the experts that are chosen, "
                f"{all_of_them.model_total:.3e} by all of them"
            )


def notes(run: DryRun) -> Iterator[str]:
    """Yield what the figures stand on, and what the run needs of this machine."""
    here = "" if run.device.peak.origin == "recipe" else " (set flops.peak_tflops for another device)"
    devices = f"{run.ranks} x {run.device.words}{here}"
    yield f"time      at an MFU of {run.mfu:.0%} on {devices}, without evaluation and saving"
    dtype, stage = run.device.dtype, zero_stage(run.ds_config)
    most = max(_parameters(run.config(plan.phase)) for plan in run.stages)
    bucket = min(run.ds_config.get("zero_optimization", {}).get("reduce_bucket_size", _BUCKET), most) * dtype.itemsize
    yield (
        f"memory    weights and gradients in {str(dtype).removeprefix('torch.')}; not counted: activations, gathered layers, "
        f"and a bucket of gradients (at most {_bytes(bucket)})"
    )
    yield "          stepping: gradients in float32 while they are stepped; batch: micro-batch x accumulation x ranks"

    def kept(plan: StagePlan) -> int:
        return run.memory(run.config(plan.phase))[stage].total

    largest = max(run.stages, key=lambda plan: kept(plan) + run.activations(plan))
    yield (
        f"largest   stage {largest.stage.name}: {_bytes(kept(largest))} a rank of weights, gradients and optimizer, what is "
        f"offloaded included (ZeRO {stage}), and {_bytes(run.activations(largest))} of activations"
    )
    yield f"data      {_data(run)}"
    yield from _disk(run)
    if run.reached:
        yield f"run_dir   {run.recipe.run_dir} holds this run up to step {run.reached:,}"


def _disk(run: DryRun) -> Iterator[str]:
    """What the checkpoints take, of the space that there is; one is written before the oldest goes."""
    largest = max((run.config(plan.phase) for plan in run.stages), key=_parameters)
    kept = run.memory(largest, ranks=1)[3]
    # Masters are written in float32 even where they are the weights themselves.
    one = kept.moments + max(kept.masters + kept.weights, 4 * _parameters(largest))
    count, place = run.recipe.checkpointing.keep + 1, Path(run.recipe.run_dir).absolute()
    free = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
    yield (
        f"disk      a checkpoint takes {_bytes(one)}, {count} at once {_bytes(count * one)}; "
        f"{_bytes(free)} are free where {run.recipe.run_dir} is"
    )
    if free < count * one:
        yield "          warning: that is not enough; free disk space, name another run_dir, or lower checkpointing.keep"


def _data(run: DryRun) -> str:
    planned = run.planned
    if isinstance(planned, PlannedOnText):
        tokens = Counter({corpus.name: corpus.splits[TRAIN].tokens for corpus in planned.data.corpora})
        shards = sum(len(split.shards) for corpus in planned.data.corpora for split in corpus.splits.values())
        return (
            f"{planned.data.directory}: {shards} shards open, {sum(tokens.values()):,} tokens to train on "
            f"({', '.join(f'{name} {count:,}' for name, count in tokens.items())}), "
            f"a tokenizer of {planned.data.tokenizer.vocab_size:,} ids"
        )
    if run.corpus_tokens is not None:
        return f"not looked at; taken to be {run.corpus_tokens:,} tokens to train on"
    known, unknown = "the text is found and not prepared yet", [p.stage.name for p in run.stages if not run.resolved(p)]
    if not unknown:
        return f"{known}, so the number of epochs is not known"
    return f"{known}, so the steps of {', '.join(unknown)} are not known; give its number of tokens by --corpus_tokens"


def _unit(count: int) -> str:
    return "GiB" if count >= _UNITS["GiB"] else "MiB"


def _bytes(count: int) -> str:
    return f"{count / _UNITS[_unit(count)]:.2f} {_unit(count)}"


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
