"""The training loop of one model: its stages, step by step."""

import resource
import sys
import time
from collections import deque
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from deepspeed.accelerator import get_accelerator

from pipeline.common import keyed
from pipeline.common.errors import UserError
from pipeline.data.batches import PackedBatches, UnpackedBatches, rank_samples
from pipeline.evaluation.perplexity import perplexity
from pipeline.evaluation.scores import Score
from pipeline.families import Section
from pipeline.flops.counts import ForwardFlops, StepFlops
from pipeline.flops.ledger import Ledger
from pipeline.recipe import Recipe
from pipeline.runs import JsonLines
from pipeline.runs.records import ROUTER_KEYS, StepRecord
from pipeline.training import distributed
from pipeline.training.ahead import Ahead
from pipeline.training.blocks import Block, setting_of
from pipeline.training.directory.checkpoints import CheckpointMetadata, Checkpoints
from pipeline.training.engine import TrainedModel
from pipeline.training.loop.balance import Balance
from pipeline.training.loop.certifying import Certifying
from pipeline.training.loop.data_watch import DamagedDataError, DataWatch
from pipeline.training.loop.evaluate import HeldOut, heldout_loss
from pipeline.training.loop.guard import Gradients, Guard, Kind, StepOutcome, is_number, with_poison
from pipeline.training.loop.running import running, scoring
from pipeline.training.loop.tasks import Tasks
from pipeline.training.losses import summed_losses
from pipeline.training.monitoring.monitors import Monitors
from pipeline.training.monitoring.progress import Progress
from pipeline.training.monitoring.utilization import Utilization
from pipeline.training.monitoring.watchdog import Watchdog
from pipeline.training.plan.training_plan import StagePlan, TrainingPlan, step_flops
from pipeline.training.preparation.data_mixes import DataMixes
from pipeline.training.signals import Stopped, StopRequest


@dataclass
class TrainState:
    """How far a run has come; what a checkpoint restores."""

    step: int = 0
    samples: dict[str, int] = field(default_factory=dict)
    """Samples taken of each mix."""
    tokens: int = 0
    seconds: float = 0.0
    ledger: Ledger = field(default_factory=Ledger)
    rewinds: int = 0
    expert_loads: list[list[int]] | None = None
    """Where a checkpoint left them."""

    @classmethod
    def restored(cls, saved: CheckpointMetadata) -> "TrainState":
        """The state that a checkpoint describes."""
        ledger = Ledger.from_json(saved.ledger)
        return cls(saved.step, dict(saved.samples), saved.tokens, saved.seconds, ledger, saved.rewinds, saved.expert_loads)

    def saved(self, phase: int, norms_weighted_until: int | None, expert_loads: list[list[int]] | None) -> CheckpointMetadata:
        """This state as a checkpoint describes it."""
        return CheckpointMetadata(
            phase=phase,
            step=self.step,
            samples=dict(self.samples),
            tokens=self.tokens,
            seconds=self.seconds,
            ledger=self.ledger.to_json(),
            rewinds=self.rewinds,
            norms_weighted_until=norms_weighted_until,
            expert_loads=expert_loads,
        )


@dataclass
class Records:
    """Where a run tells what happens."""

    metrics: JsonLines
    evaluations: JsonLines
    scores: JsonLines
    checkpoints: Checkpoints
    progress: Progress
    utilization: Utilization
    monitors: Monitors | None
    """On rank 0."""
    watchdog: Watchdog

    def evaluation(self, step: int, stage: str, heldout: HeldOut) -> None:
        """Record one evaluation, on rank 0."""
        if distributed.rank() == 0:
            of_pairs = {"pair_loss": heldout.pair_loss, "pair_accuracy": heldout.pair_accuracy}
            self.evaluations.append(
                {
                    "step": step,
                    "stage": stage,
                    "loss": heldout.loss,
                    "perplexity": perplexity(heldout.loss),
                    "accuracy": heldout.accuracy,
                    "scored_tokens": heldout.tokens,
                    **({} if heldout.pair_loss is None else of_pairs),
                }
            )
            self.monitors.evaluation(step, heldout)
        line = f"{stage}: step {step}, held-out loss {heldout.loss:.4f}, perplexity {perplexity(heldout.loss):.2f}, "
        line += f"accuracy {heldout.accuracy:.1%}"
        if heldout.pair_loss is not None:
            line += f"; of pairs: loss {heldout.pair_loss:.4f}, accuracy {heldout.pair_accuracy:.1%}"
        self.progress.say(line)

    def scored(self, scores: list[Score]) -> None:
        """Record what tasks made of the model, on rank 0."""
        for score in scores:
            if distributed.rank() == 0:
                self.scores.append(score.to_json())
            metrics = ", ".join(f"{name} {value:.4g}" for name, value in score.metrics.items())
            self.progress.say(f"{score.stage}: step {score.step}, {score.task}: {metrics}")

    def flush(self) -> None:
        """Have all that was recorded on disk."""
        self.metrics.flush()
        self.evaluations.flush()
        if self.scores.path.exists():
            self.scores.flush()

    def close(self) -> None:
        """Let go of the terminal, and write what is still in memory."""
        self.progress.close()
        if self.monitors is not None:
            self.flush()
            self.monitors.close()


_KEYS = tuple(StepRecord.__annotations__)
"""Of metrics.jsonl, in their order."""


class RewindError(Exception):
    """The run is to go back to its last checkpoint, and past the data in between."""

    def __init__(self, step: int, mix: str, samples: int, seen: str) -> None:
        """`samples` of the mix have been taken by `step`, at which `seen` was seen."""
        super().__init__(seen)
        self.step = step
        self.mix = mix
        self.samples = samples
        self.seen = seen


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step that has been given to the device, and is still to be judged."""

    kind: Kind
    record: dict[str, object]
    """What metrics.jsonl says of it, less what is not known yet."""
    tokens: int
    flops: StepFlops
    arriving: distributed.HostCopy
    """Its loss, the norm of its gradient, and of a mixture of experts the numbers of `ROUTER_KEYS`."""
    forgiven: bool
    """Whether its gradient may be no number."""
    mix: str
    samples: int
    """Of the mix, the step's own among them."""


def steps_ahead() -> int:
    """How many steps are given to the device before an earlier one is judged: to one that works beside the host, one."""
    return 0 if distributed.device().type == "cpu" else 1


class Trainer:
    """Trains one model of a run through its stages.

    A step is judged when the next one has been launched, and before anything else is done: an evaluation, a checkpoint, the
    end of a stage or of the run.
    """

    def __init__(
        self,
        phase: int,
        model: TrainedModel,
        training_plan: TrainingPlan,
        recipe: Recipe,
        mixes: DataMixes,
        state: TrainState,
        tasks: Tasks,
        records: Records,
        stop: StopRequest,
        watch: DataWatch,
        certifying: Certifying | None = None,
    ) -> None:
        """`certifying` makes the certificate of the growth that the model comes from, where that is still to be made."""
        self._watch = watch
        self._certifying = certifying
        self._phase = phase
        self._first_step, _ = training_plan.bounds(phase)
        self._model = model
        self._plan = training_plan
        self._recipe = recipe
        self._mixes = mixes
        self._state = state
        self._tasks = tasks
        self._records = records
        self._stop = stop
        self._forward_flops = ForwardFlops.of(model.config)
        # Loads are those of the model that was saved: one that has been grown since begins anew.
        resumed = state.step > self._first_step
        self._balance = Balance.of(model, recipe.router, state.expert_loads if resumed else None)
        self._gradients = Gradients(model.engine)
        model.optimizer.refuses = self._gradients.refused
        self._guard = Guard.seeded(recipe.guard, distributed.on_first_rank(self._steps_before))
        self._saved_at = time.monotonic()
        self._steps_ahead = steps_ahead()
        self._launched: deque[_Launched] = deque()
        self._judged_at = 0.0
        self._next = Ahead(self._read)

    def train(self) -> float:
        """Run the steps that are left and return the last held-out loss.

        Raises Stopped, after saving, where any rank was asked to stop, RewindError where the guard says so, and
        DamagedDataError where data is not what was prepared: after saving, unless steps may have been trained on it.
        """
        self._stop.defer()
        self._records.progress.rest()
        self._model.reach(self._state.step - self._first_step)
        loss = None
        try:
            for plan in self._plan.of_phase(self._phase):
                if self._state.step < plan.end:
                    loss = self._train_stage(plan)
        finally:
            self._next.close()
        return self.evaluate(None) if loss is None else loss

    def _steps_before(self) -> list[tuple[Kind, float | None, bool]]:
        """Kind, loss and finiteness of the steps that this model has been trained so far, as far as the guard needs them."""
        records = [record for record in self._records.metrics.read() if record["step"] > self._first_step]
        if self._recipe.guard.spike is None:
            records = records[-self._recipe.guard.skipped_steps :]
        return [((record["stage"], record["submodel_layers"]), record["loss"], not record["skipped"]) for record in records]

    def evaluate(self, stage: str | None) -> float:
        """Return the held-out loss, recorded under `stage` where one is given.

        Raises UserError, after saving, where the held-out text is not what was prepared.
        """
        self._certify()
        engine, windows = self._model.engine, self._recipe.evaluation.windows
        # One thread at a time reads the text.
        self._next.wait()
        engine.eval()
        try:
            heldout = heldout_loss(
                self._model.logits,
                partial(scoring, self._model.module, self._model.family),
                self._mixes.heldout,
                windows,
                engine.train_micro_batch_size_per_gpu(),
                self._records.watchdog.beat,
                self._model.sequences,
            )
        except UserError:
            self._save_before_a_fault()
            raise
        finally:
            engine.train()
        if stage is not None:
            self._records.evaluation(self._state.step, stage, heldout)
        return heldout.loss

    def _train_stage(self, plan: StagePlan) -> float:
        """Run what is left of a stage; return the held-out loss at its end."""
        recipe, state = self._recipe, self._state
        self._model.divide_batch(plan.micro_batch_size, plan.accumulation)
        self._model.set_decays(lambda block: self._decay(plan, block))
        peaks = {block: self._peak_rate(plan, block) for block in self._model.blocks}
        while True:
            try:
                stopping, due = self._step(plan, peaks)
            except DamagedDataError as error:
                self._judge(0)
                # Nothing of the step was done; what was done before is worth keeping where it is beyond doubt.
                if error.used:
                    self._records.checkpoints.finish(self._records.progress.say)
                else:
                    self._save_before_a_fault()
                raise
            done, ended = state.step - self._first_step, state.step == plan.end
            evaluates = ended or state.step % recipe.evaluation.every == 0
            scores = ended or self._tasks.due(state.step)
            certifies = self._certifying is not None and not self._certifying.begun
            due |= state.step % recipe.checkpointing.every == 0
            self._judge(0 if certifies or evaluates or scores or due or stopping else self._steps_ahead)
            self._model.reach(done)
            if certifies:
                self._next.wait()
                self._certifying.begin()
            if evaluates:
                loss = self.evaluate(plan.stage.name)
            if scores:
                self._certify()
                window, beat = plan.mix.sequence_length, self._records.watchdog.beat
                self._next.wait()
                self._records.scored(self._tasks.score(self._model, plan.stage.name, state.step, window, beat))
            # A run that goes back is to find what was there before it went wrong.
            if stopping or ended or (due and not self._guard.skipping):
                self._save(must=stopping or ended)
            if stopping and state.step < self._plan.steps:
                raise Stopped
            if ended:
                return loss

    def _save(self, *, must: bool) -> None:
        self._certify()
        state, records = self._state, self._records
        if distributed.rank() == 0:
            # On disk before the checkpoint is: a run that goes on from there finds all steps up to it.
            records.flush()
        loads = None if self._balance is None else self._balance.loads
        saved = state.saved(self._phase, self._weighted_until(state.step - self._first_step), loads)
        records.checkpoints.save(self._model, saved, records.progress.say, must=must)
        self._watch.remember()
        self._saved_at = time.monotonic()
        records.watchdog.beat()

    def _certify(self) -> None:
        """Have the growth certified before anything rests on it; raises RuntimeError where it is not what it should be."""
        if self._certifying is not None:
            self._certifying.finish()

    def _save_before_a_fault(self) -> None:
        """Save what is not saved yet, if it can be: it is not why the run ends."""
        checkpoints, step = self._records.checkpoints, self._state.step
        if step > self._first_step and (checkpoints.last is None or checkpoints.last.step < step):
            self._save(must=False)
        checkpoints.finish(self._records.progress.say)

    def _weighted_until(self, done: int) -> int | None:
        """The step of the run from which on the norms are stock, where they are not yet."""
        norms = self._model.norms
        return None if norms is None or done >= norms.steps else self._first_step + norms.steps

    def _peak_rate(self, plan: StagePlan, block: Block) -> float:
        """The rate of a block at the top of the schedule."""
        own = setting_of(plan.stage, "lr", block, plan.layers, plan.mixtures)
        return own or plan.stage.lr or self._recipe.optimizer.lr

    def _decay(self, plan: StagePlan, block: Block) -> float:
        own = setting_of(plan.stage, "weight_decay", block, plan.layers, plan.mixtures)
        return self._recipe.optimizer.weight_decay if own is None else own

    def _step(self, plan: StagePlan, peaks: Mapping[Block, float]) -> tuple[bool, bool]:
        """Launch one optimizer step; return whether any rank was asked to stop, and whether a checkpoint is due by the clock.

        `peaks` are the rates of the stage's blocks at the top of the schedule.
        """
        if not self._launched:
            self._judged_at = time.monotonic()
        state, model, stage = self._state, self._model, plan.stage
        section = plan.section(state.step)
        model.learn(section)
        factor = self._plan.rate_factor(plan, state.step)
        model.set_rates(lambda block: factor * peaks[block])
        # Dropout, where a recipe sets any, is a function of the step, so that a resumed run draws the same.
        key = ("dropout", self._recipe.seed, state.step, distributed.rank())
        torch.manual_seed(int(keyed.words(key, 0, 1)[0]) >> 1)

        loss, scored, stopping, due, of_routers = self._forward_backward(plan, section)
        norm, forgiven = self._gradients.last()
        if self._balance is not None:
            self._balance.move_biases(norm)

        flops = step_flops(self._recipe, self._forward_flops, plan, section, scored)
        state.step += 1
        state.samples[plan.mix.name] = state.samples.get(plan.mix.name, 0) + plan.batch_size
        state.tokens += plan.tokens
        state.ledger.add(stage.name, flops)
        depth = self._depth(plan, section)
        record = {
            "step": state.step,
            "stage": stage.name,
            "submodel_layers": depth,
            "lr": factor * (stage.lr or self._recipe.optimizer.lr),
            "tokens": state.tokens,
            "flops_model": flops.model_total,
            "flops_executed": flops.executed_total,
            "flops_total": state.ledger.total,
        }
        arriving = distributed.HostCopy(loss, norm, *of_routers)
        name, samples = plan.mix.name, state.samples[plan.mix.name]
        kind = stage.name, depth
        self._launched.append(_Launched(kind, record, plan.tokens, flops, arriving, forgiven, name, samples))
        return stopping, due

    def _judge(self, but: int) -> None:
        """Record and judge the steps that were launched, all but so many of the newest.

        Raises RewindError where the guard says so, when all are recorded.
        """
        rewind = None
        while len(self._launched) > but:
            step = self._launched.popleft()
            verdict = self._recorded(step)
            number = step.record["step"]
            if rewind is None and verdict is StepOutcome.SKIPPED:
                self._records.progress.say(f"warning: step {number} is skipped: {self._guard.seen}")
            if rewind is None and verdict is StepOutcome.REWIND:
                rewind, but = RewindError(number, step.mix, step.samples, self._guard.seen), 0
        if rewind is not None:
            raise rewind

    def _recorded(self, step: _Launched) -> StepOutcome:
        """Wait for a step's loss and norm; tell of it, and return what the guard makes of it."""
        loss, norm, *of_routers = step.arriving.read()
        verdict = self._guard.observe(step.kind, loss, step.forgiven or is_number(norm))
        began, self._judged_at = self._judged_at, time.monotonic()
        seconds = self._judged_at - began
        self._state.seconds += seconds
        speed = self._records.utilization.speed(step.flops.model_total, step.tokens, seconds)
        # Without ZeRO, in fp32, DeepSpeed tells none.
        normed = self._model.engine.get_global_grad_norm() is not None
        number, stage = step.record["step"], step.record["stage"]
        if distributed.rank() == 0:
            known = {"loss": loss, "grad_norm": norm if normed else None, "seconds": seconds, "mfu": speed.mfu}
            told = step.record | known | {"skipped": self._guard.skipping} | dict(zip(ROUTER_KEYS, of_routers, strict=False))
            record = {key: told[key] for key in _KEYS if key in told}
            self._records.metrics.append(record)
            self._records.monitors.step(record, speed)
        self._records.progress.step(number, stage, loss, speed, step.flops.executed_total, seconds)
        self._records.watchdog.beat(number)
        return verdict

    @staticmethod
    def _depth(plan: StagePlan, section: Section) -> int | None:
        """The depth of the sub-model that a step trains, where it is one."""
        return None if plan.stage.submodel_layers is None else section.depth

    def _read(self, request: tuple[StagePlan, int]) -> PackedBatches | UnpackedBatches:
        """Return this rank's micro-batches of a plan's step that begins behind so many samples; on any thread."""
        plan, taken = request
        batches, sequences = self._mixes.training(plan.mix), self._model.sequences
        rank, ranks = sequences.data_parallel_rank, sequences.data_parallel_size
        mine = rank_samples(taken, plan.batch_size, plan.micro_batch_size, rank, ranks)
        read = [sequences.sliced(batches.training(samples)) for samples in mine]
        if self._model.family.objective == "mlm":
            read = [batch.located() for batch in read]
        if distributed.device().type == "cpu":
            return UnpackedBatches(read)
        distributed.bind()
        return PackedBatches(read, pinned=True)

    def _forward_backward(
        self, plan: StagePlan, section: Section
    ) -> tuple[torch.Tensor, int, bool, bool, Collection[torch.Tensor]]:
        """Launch this step's micro-batches.

        Returns the loss over all ranks, on the device, the scored tokens over all ranks, whether any is to stop, whether
        rank 0's clock says that a checkpoint is due, and of a mixture the numbers of `ROUTER_KEYS`, on the device. Raises
        DamagedDataError, with nothing done, where the data of any rank is damaged.
        """
        model, ranks, family = self._model, distributed.world_size(), self._model.family
        taken = self._state.samples.get(plan.mix.name, 0)
        shipments = self._watch.read(lambda: [self._next.take((plan, taken))])
        checkpoints = self._records.checkpoints
        minutes = self._recipe.checkpointing.every_minutes
        late = minutes is not None and time.monotonic() - self._saved_at > 60 * minutes
        scored, asked, written, due, faults, used = distributed.total(
            sum(shipment.scored for shipment in shipments),
            float(self._stop.asked),
            float(checkpoints.written),
            float(late and distributed.rank() == 0),
            *self._watch.signs,
        )
        if faults:
            raise self._watch.agreed(self._state.step, used=used > 0)
        if written == ranks:
            checkpoints.finish(self._records.progress.say)
        if self._state.step + 1 < plan.end and not asked:
            self._next.begin((plan, taken + plan.batch_size))
        losses, micro_batches, balance = [], shipments[0].on(distributed.device()), self._balance
        for batch in micro_batches:
            with (
                running(model.module, family, section),
                scoring(model.module, family, batch.labels, batch.scored_positions) as labels,
                nullcontext() if balance is None else balance.watching(),
            ):
                logits = model.logits(**batch.inputs(distributed.device()))
            # Of a pair batch every sequence is a pair.
            loss = summed_losses(logits, labels, batch.pair_labels).mean(scored, plan.batch_size)
            # DeepSpeed averages over ranks and micro-batches; the means are over the global batch.
            minimized = loss if balance is None else loss + balance.loss(plan.tokens)
            model.engine.backward(with_poison(minimized) * (ranks * len(micro_batches)))
            model.engine.step()
            losses.append(loss.detach())
        summed, of_routers = torch.stack(losses).double().sum(), {}
        if balance is None:
            distributed.add_up(summed)
        else:
            of_routers = balance.add_up(summed)
        return summed, int(scored), asked > 0, due > 0, of_routers.values()


def peak_memory() -> dict[str, float]:
    """Return this rank's peak resident memory, and its accelerator's where there is one, in GiB."""
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    if get_accelerator().device_name() != "cpu":
        peaks["device_gib"] = get_accelerator().max_memory_allocated() / 2**30
    return peaks
