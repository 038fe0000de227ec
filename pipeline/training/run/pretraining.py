"""One run from text to a grown, trained model: data, source, growth, stages, summary."""

import json
import shutil
import time
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed

from pipeline.common.background import Beside
from pipeline.common.errors import UserError
from pipeline.common.files import HeldError, locked, write_json
from pipeline.common.keyed import DRAWS
from pipeline.deepspeed.loss_scale import restore_counters_and_scale
from pipeline.families import family_of, graph_of, sizes_of
from pipeline.families.tensors import RESIDUAL
from pipeline.growth.gates import Gates
from pipeline.growth.initialization import initialized
from pipeline.growth.inspection import inspect
from pipeline.growth.integrity import Digest, difference, digests_of
from pipeline.growth.plan import GrowthPlan
from pipeline.growth.state import OptimizerState, Source, State
from pipeline.growth.weighted_norms import WeightedNorms
from pipeline.recipe import Recipe
from pipeline.report.card import CARD, known_of_run, model_card
from pipeline.runs import JsonLines, StepLines
from pipeline.runs.records import (
    CertificateRecord,
    DataRecord,
    EvaluationRecord,
    ScoreRecord,
    StepRecord,
    SummaryRecord,
)
from pipeline.runs.steps import missing_steps, missing_words
from pipeline.training import distributed
from pipeline.training.background import begin_on_first_rank
from pipeline.training.blocks import cut
from pipeline.training.directory.checkpoints import CheckpointMetadata, Checkpoints
from pipeline.training.directory.export import export
from pipeline.training.directory.inherited import read_inherited
from pipeline.training.directory.recorded_settings import check_model, lengths
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.ds_config import compute_dtype, for_engine, sequence_parallel_size
from pipeline.training.engine import TrainedModel, build
from pipeline.training.loop.certifying import Certifying
from pipeline.training.loop.guard import GuardStoppedError
from pipeline.training.loop.loop import Records, RewindError, Trainer, TrainState, peak_memory
from pipeline.training.loop.measure import CarriedText, Text, measure_all, measure_grown, measure_growth
from pipeline.training.loop.tasks import Tasks
from pipeline.training.monitoring.monitors import Monitors, without_monitors
from pipeline.training.monitoring.progress import Progress
from pipeline.training.monitoring.utilization import Utilization, speeds
from pipeline.training.monitoring.watchdog import Watchdog
from pipeline.training.plan.training_plan import phases_of
from pipeline.training.plan.workload import Workload
from pipeline.training.preparation.preparation import Growth, Preparation, prepare_run
from pipeline.training.run.branching import branch_off
from pipeline.training.run.summary import render
from pipeline.training.sequence_parallel import SequenceGroup
from pipeline.training.signals import StopRequest

UNTRAINED = "random initialization"
"""What certificates name as the source where it was not trained."""

_GATE_TOKENS = 4096
"""Tokens of held-out text, at most but for a longer window, on which experts' shares of Adam's state are measured."""

_DYING_SECONDS = 300
"""How long the tasks of a job's last attempt may hold the run directory, on a node that Slurm gave up."""
_POLL_SECONDS = 1.0

_COMMAND = "deepspeed launch/pretrain.py --ds_config ds_config.json --recipe recipe.yaml"
"""How a run is done again: with the two files that it leaves of its settings."""


class Run:
    """A recipe under a DeepSpeed configuration, in its run directory."""

    def __init__(self, recipe: Recipe, ds_config: dict[str, Any], stop: StopRequest, branch_from: Path | None = None) -> None:
        """`branch_from` is the directory of a run with whose steps this one begins, where it has no checkpoint yet."""
        self._recipe = recipe
        self._branch_from = branch_from
        self._ds_config = ds_config
        self._stop = stop
        self._directory = RunDirectory(Path(recipe.run_dir))
        self._checkpoints = Checkpoints(self._directory.checkpoints, recipe.checkpointing)
        self._certificates: list[CertificateRecord] = []
        """Of the growths so far."""

    def execute(self) -> None:
        """Do what is left of the run, and print its summary; a collective call.

        Raises UserError where the input is wrong, Stopped where the run was asked to stop.
        """
        with ExitStack() as stack:
            distributed.on_first_rank(lambda: self._lock(stack))
            try:
                summary = self._execute()
            except UserError:
                if distributed.rank() == 0:
                    self._directory.abandon()
                raise
            self._say(render(summary))

    def _lock(self, stack: ExitStack) -> None:
        """Hold the run directory; where Slurm started the job again, an attempt that is still dying is waited for."""
        deadline = time.monotonic() + (_DYING_SECONDS if distributed.restarts() else 0)
        waiting = False
        while True:
            try:
                stack.enter_context(locked(self._directory.lock, wait=False))
                return
            except HeldError as error:
                if time.monotonic() >= deadline:
                    raise
                if not waiting:
                    self._say(f"waiting up to {_DYING_SECONDS} s for what is left of this job's last attempt: {error}")
                waiting = True
                time.sleep(_POLL_SECONDS)

    def _execute(self) -> dict[str, Any]:
        """Return the run's summary, after doing what is left of the run."""
        distributed.on_every_rank(self._directory.check_shared)
        saved = self._checkpoints.newest_whole(self._say)
        if saved is None and self._branch_from is not None:
            distributed.on_first_rank(self._branch_off)
            saved = self._checkpoints.newest_whole(self._say)
        remarks = distributed.on_first_rank(lambda: self._directory.check(self._recipe, self._ds_config, saved))
        done = distributed.on_first_rank(lambda: self._finished(saved))
        if done is not None and self._is_whole(done, saved):
            return done
        # Of how the run goes on, which a finished one does not.
        for remark in remarks:
            self._say(remark)
        prepared = prepare_run(self._recipe, self._ds_config, self._directory, saved, self._say)
        for remark in _remarks(prepared):
            self._say(f"source: {remark}")
        self._checkpoints.beside = prepared.data.tokenizer.write
        self._sequences = SequenceGroup.joined(sequence_parallel_size(self._ds_config))
        begun, self._certificates = distributed.on_first_rank(lambda: self._claim(prepared, saved))
        self._checkpoints.run = {
            "recipe": self._recipe.model_dump(mode="json"),
            "ds_config": without_monitors(self._ds_config),
            "data": begun,
            "certificates": self._certificates,
        }
        with prepared.watch.from_step(0 if saved is None else saved.step):
            summary = self._carry_out(prepared, saved)
        distributed.on_first_rank(lambda: write_json(self._directory.summary, summary))
        return summary

    def _branch_off(self) -> None:
        branch_off(self._branch_from, self._recipe, self._ds_config, self._directory, distributed.world_size(), self._say)

    def _finished(self, saved: CheckpointMetadata | None) -> SummaryRecord | None:
        """Return the summary of a run that is finished, its certificates in order; one rank's work."""
        summary = self._directory.finished_summary(self._recipe, saved, self._say)
        if summary is not None:
            growths = summary["growths"]
            self._directory.certified(len(growths), growths, str(self._directory.summary), self._say)
        return summary

    def _claim(self, prepared: Preparation, saved: CheckpointMetadata | None) -> tuple[DataRecord, list[CertificateRecord]]:
        """Make the directory this run's; return what data.json says and the certificates of its growths; one rank's work."""
        begun = self._directory.claim(self._recipe, self._ds_config, _begun_with(prepared))
        known = [] if saved is None or saved.run is None else saved.run["certificates"]
        growths, origin = (0, "") if saved is None else (saved.phase, f"the checkpoint {saved.tag}")
        certificates = self._directory.certified(growths, known, origin, self._say)
        if saved is None and (steps := self._directory.steps()):
            self._say(f"warning: there is no checkpoint: the run begins anew, and {steps:,} steps on record are lost")
        return begun, certificates

    def _is_whole(self, summary: SummaryRecord, saved: CheckpointMetadata | None) -> bool:
        """Whether all that a finished run exported is as it was written, a collective call; says what is to be made again.

        The source's is not, and that is only said. Raises UserError where the model's is to be and there is no checkpoint
        to export it from.
        """
        # Older versions did not write down what they had exported.
        for name, files in summary.get("files", {self._directory.model.name: {}}).items():
            folder, digests = self._directory.path / name, {file: Digest(**digest) for file, digest in files.items()}
            own = difference(folder, digests, distributed.rank(), distributed.world_size())
            fault = distributed.first_found(own if folder.is_dir() else f"{folder}: missing")
            if fault is None:
                continue
            if folder == self._directory.source_model:
                # Checkpoints of the source are gone by then, and nothing of the run needs its export.
                self._say(f"warning: {fault}; it is not made again")
                continue
            if saved is None:
                raise UserError(
                    f"{fault}, and there is no checkpoint any more to export it from; put it back, or name another run_dir"
                )
            self._say(f"{fault}; the model is exported anew from the checkpoint {saved.tag}")
            return False
        return True

    def _carry_out(self, prepared: Preparation, saved: CheckpointMetadata | None) -> dict[str, Any]:
        """Do what is left, going back where the guard says so; return the summary."""
        state = self._state(prepared, saved)
        while True:
            try:
                with closing(self._open_records(prepared, state)) as records, records.watchdog:
                    return self._train(prepared, saved, state, records)
            except RewindError as rewind:
                self._checkpoints.finish(self._say)
                saved = self._checkpoints.last
                state = self._rewound(prepared, saved, state.rewinds, rewind)

    def _state(self, prepared: Preparation, saved: CheckpointMetadata | None) -> TrainState:
        state = TrainState() if saved is None else TrainState.restored(saved)
        rewound = distributed.on_first_rank(self._directory.rewound_record)
        # Later checkpoints say it themselves.
        if rewound is not None and rewound["step"] == state.step:
            state.rewinds = rewound["rewinds"]
            state.samples |= rewound["samples"]
        # A source may have trained on, or be gone, when the run that began from it is resumed.
        if prepared.given is not None and saved is None:
            origin = prepared.given.directory
            state.ledger.inherit(str(origin), distributed.on_first_rank(lambda: read_inherited(origin)))
        return state

    def _rewound(
        self, prepared: Preparation, saved: CheckpointMetadata | None, rewinds: int, rewind: RewindError
    ) -> TrainState:
        """Return where a run stands that goes back to a checkpoint: past the data that it had read by then."""
        if rewinds >= self._recipe.guard.rewinds:
            raise GuardStoppedError(rewind.seen, rewind.step, rewinds)
        state = self._state(prepared, saved)
        state.samples[rewind.mix] = rewind.samples
        state.rewinds = rewinds + 1
        # The checkpoint does not say it: started again, the run would go the same way for ever.
        rewound = {"step": state.step, "rewinds": state.rewinds, "samples": state.samples}
        distributed.on_first_rank(lambda: write_json(self._directory.rewound, rewound))
        self._say(
            f"warning: step {rewind.step}: {rewind.seen}; going back to step {state.step}, and past the data in between "
            f"({state.rewinds} of {self._recipe.guard.rewinds} times)"
        )
        return state

    def _train(
        self, prepared: Preparation, saved: CheckpointMetadata | None, state: TrainState, records: Records
    ) -> dict[str, Any]:
        """Train what is left, model after model; return the summary."""
        source, final = _watched(prepared.given or self._untrained(prepared), records), 0.0
        digest = prepared.digest
        for phase in phases_of(self._recipe):
            begin, end = prepared.training_plan.bounds(phase.number)
            if saved is not None and saved.phase > phase.number:
                continue
            goes_on = saved is not None and saved.phase == phase.number
            last = end == prepared.training_plan.steps
            if begin == end:
                continue
            if not goes_on or state.step < end or last:
                if phase.number == 0:
                    # An export from before the source was lengthened must not pass for this one.
                    distributed.on_first_rank(lambda: shutil.rmtree(self._directory.source_model, ignore_errors=True))
                certifying = None
                if goes_on:
                    model = self._resumed(prepared, saved, records)
                else:
                    model, certifying = self._begun(prepared, phase.number, source, digest, records, state)
                with closing(model), closing(certifying) if certifying is not None else nullcontext():
                    final = Trainer(
                        phase.number,
                        model,
                        prepared.training_plan,
                        self._recipe,
                        prepared.mixes,
                        state,
                        Tasks(self._recipe, prepared.data.tokenizer),
                        records,
                        self._stop,
                        prepared.watch,
                        certifying,
                    ).train()
            else:
                self._say(f"going on from step {state.step}")
            source, digest = self._opened(prepared, self._checkpoints.last, records), None
            if phase.number == 0:
                self._export(source, self._directory.source_model, prepared, state, records)
        prepared.watch.finish(state.step, records.watchdog.beat, self._say)
        self._export(source, self._directory.model, prepared, state, records)
        return self._summarize(prepared, records, state, final)

    def _begun(
        self,
        prepared: Preparation,
        phase: int,
        source: Source,
        digest: Beside[str] | None,
        records: Records,
        state: TrainState,
    ) -> tuple[TrainedModel, Certifying | None]:
        """Return the model that a phase begins with: the source itself, or what it is grown into with what certifies that.

        Raises UserError where a weight of the source is no number: nothing has been trained on it by then.
        """
        if phase == 0:
            return self._build(prepared, 0, source.state, None), None
        # Read beside the building, which reads it too.
        digest = digest or begin_on_first_rank(lambda tick: inspect(source.state, str(source.directory), tick))
        growth = self._with_gates(prepared, prepared.growths[phase - 1], source, records)
        for reason in (*growth.plan.remarks, *growth.plan.choices):
            self._say(reason)
        kept = growth.plan.begin_optimizer(source.optimizer)
        model = self._build(prepared, phase, growth.plan.grow(source.state), kept)
        records.watchdog.on_first_rank(lambda: digest.result(records.watchdog.beat))
        return model, self._certifying(prepared, growth, source, digest, model, records, state.step)

    def _with_gates(self, prepared: Preparation, growth: Growth, source: Source, records: Records) -> Growth:
        """Return the growth in which experts have the shares of Adam's state that held-out text gives them, where that matters.

        Text of another tokenizer is none that the source reads.
        """
        plan = growth.plan
        if not plan.takes_gates or plan.tokenizer is not None:
            return growth

        def measured() -> Gates:
            windows = min(len(prepared.mixes.heldout), max(1, _GATE_TOKENS // self._recipe.data.sequence_length))
            text = prepared.mixes.heldout.heldout(np.arange(windows)).input_ids
            return plan.upcycling.measure(source, text[:, : source.family.usable_positions(sizes_of(source.config))])

        return replace(growth, plan=plan.with_gates(records.watchdog.on_first_rank(measured)))

    def _untrained(self, prepared: Preparation) -> Source:
        """Return a source that is not given: what this run trains first, or leaves as it is."""
        config = prepared.source
        family = family_of(config)
        return Source(Path(UNTRAINED), config, family, initialized(family, config, self._recipe.seed))

    def _resumed(self, prepared: Preparation, saved: CheckpointMetadata, records: Records) -> TrainedModel:
        """Return the model as a checkpoint left it."""
        opened = self._opened(prepared, saved, records)
        model = self._build(prepared, saved.phase, opened.state, opened.optimizer)
        restore_counters_and_scale(model.engine, saved.counters, saved.loss_scale)
        self._say(f"going on from step {saved.step}")
        return model

    def _build(self, prepared: Preparation, phase: int, state: State, optimizer_state: OptimizerState | None) -> TrainedModel:
        recipe, config = self._recipe, prepared.config(phase)
        graph = graph_of(config)
        model = build(
            family_of(config),
            config,
            state,
            for_engine(self._ds_config, distributed.world_size()),
            recipe.optimizer,
            cut(len(graph.layers), [plan.stage for plan in prepared.training_plan.of_phase(phase)], graph.mixtures),
            recipe.attn_implementation,
            optimizer_state,
            activation_checkpointing=recipe.activation_checkpointing,
            compile=recipe.compile,
            fused_linear_cross_entropy=recipe.fused_linear_cross_entropy,
            make_vocab_size_divisible_by=recipe.make_vocab_size_divisible_by,
            experts_implementation=recipe.experts_implementation,
            new_tokens=None if phase == 0 else prepared.growths[phase - 1].plan.new_tokens,
        )
        model.sequences = self._sequences
        if phase > 0:
            plan = prepared.growths[phase - 1].plan
            model.optimizer.added = plan.growth.added
            self._weigh_norms(model, plan)
        return model

    def _opened(self, prepared: Preparation, saved: CheckpointMetadata, records: Records) -> Source:
        """Return a checkpoint's model; raises UserError, on every rank, where it is not the one that the phase trains."""

        def opened() -> Source:
            source = self._checkpoints.open(saved)
            phase = next(phase for phase in phases_of(self._recipe) if phase.number == saved.phase)
            check_model(source, prepared.config(saved.phase), phase)
            return source

        return _watched(distributed.on_every_rank(opened), records)

    def _export(self, source: Source, directory: Path, prepared: Preparation, state: TrainState, records: Records) -> None:
        """Leave a model as a Hugging Face directory; the source's is there already where the run goes on."""

        def work() -> None:
            if directory == self._directory.model or not directory.is_dir():
                growths = 0 if directory == self._directory.source_model else len(prepared.growths)
                known = known_of_run(self._directory, source.config, "float32", _COMMAND, state.ledger, growths, state.step)
                card = model_card(replace(known, remarks=_remarks(prepared)))
                export(source, directory, prepared.data.tokenizer, state.ledger, card)

        records.watchdog.on_first_rank(work)

    @staticmethod
    def _weigh_norms(model: TrainedModel, plan: GrowthPlan) -> None:
        if plan.growth.norm_statistics == "weighted":
            residual, steps = plan.maps[RESIDUAL], plan.growth.norm_anneal_steps
            model.norms = WeightedNorms(model.module, plan.graph, residual, steps)

    def _open_records(self, prepared: Preparation, state: TrainState) -> Records:
        """Return the run's records, cut back to a state; what is cut off is booked in its ledger as waste."""
        directory, step = self._directory, state.step
        records = Records(
            StepLines(directory.metrics),
            JsonLines(directory.evaluations, EvaluationRecord),
            JsonLines(directory.scores, ScoreRecord),
            self._checkpoints,
            Progress(Workload(self._recipe, prepared.training_plan, prepared.config), step, shown=distributed.rank() == 0),
            Utilization.measured(compute_dtype(self._ds_config), self._recipe.flops.peak_tflops),
            Monitors.opened(self._ds_config, directory.path, step),
            Watchdog(60 * self._recipe.guard.stall_minutes, step),
        )

        def cut_back() -> int:
            lost = JsonLines(directory.lost, StepRecord)
            # A last line that was cut short must not become one in the middle.
            lost.keep(lambda _: True)
            # Written down before it is cut: killed in between, a record is found twice, and counted once.
            for record in records.metrics.read():
                if record["step"] > step:
                    lost.append(record)
            lost.flush()
            records.metrics.keep(lambda record: record["step"] <= step)
            if gaps := missing_steps(records.metrics.read(), step):
                self._say(
                    f"warning: {directory.metrics}: lacks the steps {missing_words(gaps)}; no curve and no speed has them"
                )
            records.evaluations.keep(lambda record: record["step"] <= step)
            # Few runs have any, and an empty file would say that this one has.
            if directory.scores.exists():
                records.scores.keep(lambda record: record["step"] is None or record["step"] <= step)
            return sum(record["flops_executed"] for record in _distinct(lost.read()))

        state.ledger.wasted = distributed.on_first_rank(cut_back)
        return records

    def _certifying(
        self,
        prepared: Preparation,
        growth: Growth,
        source: Source,
        digest: Beside[str] | None,
        grown: TrainedModel,
        records: Records,
        step: int,
    ) -> Certifying:
        """Evaluate the grown model before its first step; return what makes the certificate of the growth beside the next."""
        name, number = growth.phase.name, growth.phase.number
        batch_size = grown.engine.train_micro_batch_size_per_gpu()
        carried = growth.plan.carried
        text = Text(prepared.mixes.heldout, self._recipe.evaluation.windows, batch_size, records.watchdog.beat)
        whole = None
        if growth.plan.tokenizer is not None:
            # What is trained later is measured on all of the text.
            whole = measure_all(grown, text)
            text = replace(text, batches=CarriedText(text.batches, carried, growth.plan.target.vocab_size))
        after = measure_grown(grown, carried, text)
        distributed.on_first_rank(lambda: records.evaluations.keep(lambda record: record["stage"] != name))
        records.evaluation(step, name, whole or after.heldout)

        def certified(certificate: CertificateRecord) -> None:
            # Where the run went back behind a growth this is its second one.
            self._certificates[number - 1 :] = [certificate]

        return Certifying(
            self._directory.certificate(number),
            growth,
            source,
            digest,
            partial(
                measure_growth,
                source,
                carried,
                after,
                text,
                compute_dtype(self._ds_config),
                grown.module.config._attn_implementation,
            ),
            _remarks(prepared) if number == 1 else (),
            records.watchdog,
            certified,
        )

    def _summarize(self, prepared: Preparation, records: Records, state: TrainState, final: float) -> dict[str, Any]:
        directory = self._directory
        peaks: list[dict[str, float] | None] = [None] * distributed.world_size()
        torch.distributed.all_gather_object(peaks, peak_memory())
        certificates = self._certificates
        own = prepared.mixes.weights[prepared.mixes.own.name]
        graph = graph_of(prepared.growths[-1].target)
        steps = distributed.on_first_rank(records.metrics.read)
        return {
            "run": self._checkpoints.run["data"]["run"],
            "family": certificates[0]["family"],
            "growths": certificates,
            "losses": {
                "unigram": prepared.data.unigram_entropy(own),
                "source": certificates[0]["in_training"]["source_loss"],
                "grown": certificates[0]["in_training"]["grown_loss"],
                "final": final,
            },
            "parameters": {"total": graph.parameters, "active": graph.active_parameters},
            "steps": state.step,
            "lengths": lengths(self._recipe),
            "tokens": state.tokens,
            "flops": state.ledger.to_json(),
            "seconds": state.seconds,
            "tokens_per_second": state.tokens / state.seconds,
            "speeds": speeds(steps),
            "missing_steps": missing_steps(steps, state.step),
            "peak": records.utilization.device.words,
            "peak_memory": peaks,
            "paths": {
                "model": str(directory.model),
                "checkpoints": str(directory.checkpoints),
                "certificates": str(directory.certificate(1).parent),
                "metrics": str(directory.metrics),
                "data": str(prepared.data.directory),
            },
            "files": records.watchdog.on_first_rank(self._exported),
        }

    def _exported(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What each exported file is, by folder; the card is for people to write on."""
        folders = [folder for folder in (self._directory.model, self._directory.source_model) if folder.is_dir()]
        return {
            folder.name: {name: asdict(digest) for name, digest in digests_of(folder, leave_out=[CARD]).items()}
            for folder in folders
        }

    def _say(self, line: str) -> None:
        if distributed.rank() == 0:
            print(line, flush=True)


def _watched(source: Source, records: Records) -> Source:
    return replace(source, state=records.watchdog.watched(source.state))


def _remarks(prepared: Preparation) -> tuple[str, ...]:
    """What there is to say of how the given source was read."""
    return () if prepared.given is None else prepared.given.remarks


def _distinct(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({json.dumps(record): record for record in records}.values())


def _begun_with(prepared: Preparation) -> dict[str, Any]:
    """What a run that goes on must find again."""
    return {
        "prepared": str(prepared.data.directory),
        "fingerprint": prepared.data.manifest.fingerprint,
        "weights": prepared.mixes.weights,
        "steps": {plan.stage.name: plan.end - plan.begin for plan in prepared.training_plan.stages},
        "draws": DRAWS,
    }
