"""The models of a run in turn: each resumed, or grown from the one before, trained, and read back from its checkpoint."""

import logging
import shutil
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.common.background import Background
from pipeline.deepspeed.loss_scale import restore_counters_and_scale
from pipeline.families import family_of, graph_of, sizes_of
from pipeline.families.tensors import RESIDUAL
from pipeline.growth.gates import Gates
from pipeline.growth.initialization import initialized
from pipeline.growth.inspection import inspect
from pipeline.growth.optimizer_growth import begin_optimizer
from pipeline.growth.state import OptimizerState, Source, State
from pipeline.growth.weighted_norms import WeightedNorms
from pipeline.recipe import ModelPhase
from pipeline.training import distributed
from pipeline.training.certifying.certifying import GrowthCertification, measured_before_training
from pipeline.training.certifying.measure import Text
from pipeline.training.directory.checkpoints import TrainState
from pipeline.training.directory.recorded_settings import check_model
from pipeline.training.ds_config import for_engine
from pipeline.training.engine import TrainedModel, build
from pipeline.training.loop.context import LoopContext
from pipeline.training.loop.loop import Certification, Trainer
from pipeline.training.parameter_groups import cut
from pipeline.training.preparation.models import Growth
from pipeline.training.run.context import RunContext
from pipeline.training.run.finish import export_model

logger = logging.getLogger(__name__)

UNTRAINED = "random initialization"
"""What certificates name as the source where it was not trained."""

_GATE_TOKENS = 4096
"""Tokens of held-out text, at most but for a longer window, on which experts' shares of Adam's state are measured."""


def train_models(run: RunContext, loop: LoopContext, saved: TrainState | None) -> float:
    """Train what is left, model after model, and export what comes of it; return the last held-out loss."""
    directory, state = run.directory, loop.state
    source, digest, final = run.prepared.given or _untrained(run), run.prepared.digest, 0.0
    for phase in run.recipe.phases:
        begin, end = loop.plan.bounds(phase.number)
        if begin == end or (saved is not None and saved.phase > phase.number):
            continue
        resumed = saved if saved is not None and saved.phase == phase.number else None
        if resumed is None or state.step < end or end == loop.plan.steps:
            if phase.number == 0:
                # An export from before the source was lengthened must not pass for this one.
                distributed.on_first_rank(lambda: shutil.rmtree(directory.source_model, ignore_errors=True))
            if resumed is not None:
                model, certification = _resumed(run, resumed), Certification()
            else:
                model, certification = _started(run, loop, phase, source, digest)
            with closing(model), closing(certification):
                final = Trainer(phase.number, model, loop, certification).train()
        else:
            logger.info(f"the run continues from its checkpoint of step {state.step}")
        source, digest = _opened(run, run.checkpoints.newest_saved), None
        if phase.number == 0:
            export_model(run, loop, source, directory.source_model)
    run.prepared.watch.finish(state.step)
    export_model(run, loop, source, directory.model)
    return final


def _untrained(run: RunContext) -> Source:
    """Return a source that is not given: what this run trains first, or leaves as it is."""
    config = run.prepared.source
    family = family_of(config)
    return Source(Path(UNTRAINED), config, family, initialized(family, config, run.recipe.seed))


def _resumed(run: RunContext, saved: TrainState) -> TrainedModel:
    """Return the model as a checkpoint left it."""
    opened = _opened(run, saved)
    model = _build(run, saved.phase, opened.state, opened.optimizer)
    restore_counters_and_scale(model.engine, saved.counters, saved.loss_scale)
    logger.info(f"the run continues from its checkpoint of step {saved.step}")
    return model


def _started(
    run: RunContext, loop: LoopContext, phase: ModelPhase, source: Source, digest: Background[str] | None
) -> tuple[TrainedModel, Certification]:
    """Return the model that a phase begins with: the source itself, or what it is grown into; and what certifies that.

    Raises UserError where a weight of the source is no number: nothing has been trained on it by then.
    """
    if phase.number == 0:
        return _build(run, 0, source.state, None), Certification()
    # Read beside the building, which reads it too.
    digest = digest or distributed.begin_on_first_rank(lambda: inspect(source.state, str(source.directory)))
    growth = _with_gates(run, loop, run.prepared.growths[phase.number - 1], source)
    for reason in (*growth.plan.form.remarks, *growth.plan.choices):
        logger.info(reason)
    kept = begin_optimizer(growth.plan, source.optimizer)
    model = _build(run, phase.number, growth.plan.grow(source.state), kept)
    loop.watchdog.on_first_rank(lambda: None if digest is None else digest.result())
    text = Text(loop.mixes.heldout, run.recipe.evaluation.windows, model.engine.train_micro_batch_size_per_gpu())
    return model, GrowthCertification(
        path=run.directory.certificate(phase.number),
        growth=growth,
        source=source,
        digest=digest,
        remarks=run.source_remarks if phase.number == 1 else (),
        watchdog=loop.watchdog,
        certified=partial(run.certified, phase.number),
        measure=measured_before_training(growth, source, model, text, run.dtype, loop.records, loop.state.step),
    )


def _with_gates(run: RunContext, loop: LoopContext, growth: Growth, source: Source) -> Growth:
    """Return the growth in which experts have the shares of Adam's state that held-out text gives them, where that matters.

    The source does not read text of another tokenizer.
    """
    plan = growth.plan
    if not plan.takes_gates or plan.tokenizer is not None:
        return growth

    def measured() -> Gates:
        windows = min(len(loop.mixes.heldout), max(1, _GATE_TOKENS // run.recipe.data.sequence_length))
        text = loop.mixes.heldout.heldout(np.arange(windows)).input_ids
        return plan.form.measure(source, text[:, : source.family.usable_positions(sizes_of(source.config))])

    return replace(growth, plan=plan.with_gates(loop.watchdog.on_first_rank(measured)))


def _build(run: RunContext, phase: int, state: State, optimizer_state: OptimizerState | None) -> TrainedModel:
    recipe, prepared = run.recipe, run.prepared
    config, grown_by = prepared.config(phase), None if phase == 0 else prepared.growths[phase - 1].plan
    graph = graph_of(config)
    model = build(
        family_of(config),
        config,
        state,
        for_engine(run.ds_config, distributed.world_size()),
        recipe.optimizer,
        cut(len(graph.layers), [plan.stage for plan in prepared.training_plan.of_phase(phase)], graph.mixtures),
        recipe.attn_implementation,
        optimizer_state,
        activation_checkpointing=recipe.activation_checkpointing,
        compile=recipe.compile,
        fused_linear_cross_entropy=recipe.fused_linear_cross_entropy,
        make_vocab_size_divisible_by=recipe.make_vocab_size_divisible_by,
        experts_implementation=recipe.experts_implementation,
        new_tokens=None if grown_by is None else grown_by.new_tokens,
    )
    model.sequences = run.sequences
    if grown_by is not None:
        model.optimizer.added = grown_by.growth.added
        if grown_by.growth.norm_statistics == "weighted":
            steps = grown_by.growth.norm_anneal_steps
            model.norms = WeightedNorms(model.module, grown_by.graph, grown_by.maps[RESIDUAL], steps)
    return model


def _opened(run: RunContext, saved: TrainState) -> Source:
    """Return a checkpoint's model; raises UserError, on every rank, where it is not the one that the phase trains."""

    def opened() -> Source:
        source = run.checkpoints.open(saved)
        phase = next(phase for phase in run.recipe.phases if phase.number == saved.phase)
        check_model(source, run.prepared.config(saved.phase), phase)
        return source

    return distributed.on_every_rank(opened)
