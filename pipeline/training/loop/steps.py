"""The steps of one model: launched on the device, and judged on the host when the next one is under way."""

import logging
import time
from collections import deque
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from pipeline.common import keyed
from pipeline.data.batches import PackedBatches, UnpackedBatches, rank_samples
from pipeline.families import ActiveLayers
from pipeline.flops.counts import ForwardFlops, StepFlops
from pipeline.runs.records import ROUTER_KEYS
from pipeline.training import distributed
from pipeline.training.ahead import Ahead
from pipeline.training.engine import TrainedModel
from pipeline.training.loop.balance import Balance
from pipeline.training.loop.context import LoopContext
from pipeline.training.loop.guard import Gradients, Guard, Kind, StepOutcome, is_number, with_poison
from pipeline.training.loop.running import running, scoring
from pipeline.training.losses import summed_losses
from pipeline.training.parameter_groups import ParameterGroup, setting_of
from pipeline.training.plan.training_plan import StagePlan, step_flops

logger = logging.getLogger(__name__)


class RewindError(Exception):
    """The run is to go back to its last checkpoint, and past the data in between."""

    def __init__(self, step: int, mix: str, samples: int, seen: str) -> None:
        """`samples` of the data mix have been taken by `step`, at which `seen` was seen."""
        super().__init__(seen)
        self.step = step
        self.mix = mix
        self.samples = samples
        self.seen = seen


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step that has been given to the device, and is still to be judged."""

    kind: Kind
    number: int
    known: dict[str, object]
    """What metrics.jsonl says of it, less what is not known yet."""
    tokens: int
    flops: StepFlops
    arriving: distributed.HostCopy
    """Its loss, the norm of its gradient, and of a mixture of experts the numbers of `ROUTER_KEYS`."""
    forgiven: bool
    """Whether its gradient may be no number."""
    mix: str
    samples: int
    """Of the data mix, the step's own among them."""


@dataclass(frozen=True, slots=True)
class _Batches:
    """A step's micro-batches on this rank, and what all ranks agreed on before running them."""

    here: PackedBatches | UnpackedBatches
    scored: float
    """Positions that all ranks score."""
    stopping: bool
    """Whether any rank was asked to stop."""
    due: bool
    """Whether rank 0's clock says that a checkpoint is due."""


def steps_ahead() -> int:
    """How many steps are given to the device before an earlier one is judged: to one that works beside the host, one."""
    return 0 if distributed.device().type == "cpu" else 1


class Steps:
    """Takes the steps of one model, a stage at a time."""

    def __init__(self, phase: int, model: TrainedModel, context: LoopContext) -> None:
        self._model = model
        self._context = context
        self._first_step, _ = context.plan.bounds(phase)
        self._forward_flops = ForwardFlops.of(model.config)
        # Loads are those of the model that was saved: one that has been grown since starts without.
        resumed = context.state.step > self._first_step
        self._balance = Balance.of(model, context.recipe.router, context.state.expert_loads if resumed else None)
        self._gradients = Gradients(model.engine)
        model.optimizer.refuses = self._gradients.refused
        self._guard = Guard.seeded(context.recipe.guard, distributed.on_first_rank(self._steps_before))
        self._saved_at = time.monotonic()
        self.ahead = steps_ahead()
        """How many steps may be launched beyond the one that is judged."""
        self._launched: deque[_Launched] = deque()
        self._judged_at = 0.0
        self._reader = Ahead(self._read)

    @property
    def done(self) -> int:
        """The steps that this model has taken."""
        return self._context.state.step - self._first_step

    @property
    def skipping(self) -> bool:
        """Whether the last step that was judged moved nothing."""
        return self._guard.skipping

    @property
    def expert_loads(self) -> list[list[int]] | None:
        """How often each expert of each layer was chosen in the last step; None of a dense model."""
        return None if self._balance is None else self._balance.loads

    def saved(self) -> None:
        """Take note that a checkpoint was just saved."""
        self._saved_at = time.monotonic()

    def wait_for_reader(self) -> None:
        """Wait until the text is not read ahead: one thread at a time reads it."""
        self._reader.wait()

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._reader.close()

    def _steps_before(self) -> list[tuple[Kind, float | None, bool]]:
        """Kind, loss and finiteness of the steps that this model has been trained so far, as far as the guard needs them."""
        guard = self._context.recipe.guard
        records = [record for record in self._context.records.metrics.read() if record["step"] > self._first_step]
        if guard.spike is None:
            records = records[-guard.skipped_steps :]
        return [((record["stage"], record["submodel_layers"]), record["loss"], not record["skipped"]) for record in records]

    def begin_stage(self, plan: StagePlan) -> None:
        """Take the following steps as a stage says."""
        self._plan = plan
        self._model.divide_batch(plan.micro_batch_size, plan.accumulation)
        self._model.set_decays(self._decay)
        self._peaks = {group: self._peak_rate(group) for group in self._model.parameter_groups}

    def _peak_rate(self, group: ParameterGroup) -> float:
        """The rate of a group at the top of the schedule."""
        plan = self._plan
        own = setting_of(plan.stage, "lr", group, plan.layers, plan.mixtures)
        return own or plan.stage.lr or self._context.recipe.optimizer.lr

    def _decay(self, group: ParameterGroup) -> float:
        plan = self._plan
        own = setting_of(plan.stage, "weight_decay", group, plan.layers, plan.mixtures)
        return self._context.recipe.optimizer.weight_decay if own is None else own

    def launch(self) -> tuple[bool, bool]:
        """Launch one optimizer step; return whether any rank was asked to stop, and whether a checkpoint is due by the clock.

        Raises DamagedDataError, with nothing done, where the data of any rank is damaged.
        """
        if not self._launched:
            self._judged_at = time.monotonic()
        context, model, plan, stage = self._context, self._model, self._plan, self._plan.stage
        state, recipe = context.state, context.recipe
        active = plan.active_layers(state.step)
        model.learn(active)
        factor = context.plan.rate_factor(plan, state.step)
        model.set_rates(lambda group: factor * self._peaks[group])
        # Dropout, where a recipe sets any, is a function of the step, so that a resumed run draws the same.
        key = ("dropout", recipe.seed, state.step, distributed.rank())
        torch.manual_seed(int(keyed.words(key, 0, 1)[0]) >> 1)

        batches = self._next_batches()
        loss, of_routers = self._forward_backward(batches, active)
        norm, forgiven = self._gradients.last()
        if self._balance is not None:
            self._balance.move_biases(norm)

        flops = step_flops(recipe, self._forward_flops, plan, active, int(batches.scored))
        state.step += 1
        samples = state.samples[plan.mix.name] = state.samples.get(plan.mix.name, 0) + plan.batch_size
        state.tokens += plan.tokens
        state.ledger.add(stage.name, flops)
        depth = None if stage.submodel_layers is None else active.depth
        known: dict[str, object] = {
            "step": state.step,
            "stage": stage.name,
            "submodel_layers": depth,
            "lr": factor * (stage.lr or recipe.optimizer.lr),
            "tokens": state.tokens,
            "flops_model": flops.model_total,
            "flops_executed": flops.executed_total,
            "flops_total": state.ledger.total,
        }
        arriving = distributed.HostCopy(loss, norm, *of_routers)
        kind = stage.name, depth
        self._launched.append(
            _Launched(kind, state.step, known, plan.tokens, flops, arriving, forgiven, plan.mix.name, samples)
        )
        return batches.stopping, batches.due

    def judge(self, but: int = 0) -> None:
        """Record and judge the steps that were launched, all but so many of the newest.

        Raises RewindError where the guard says so, when all are recorded.
        """
        rewind = None
        while len(self._launched) > but:
            step = self._launched.popleft()
            outcome, number = self._recorded(step), step.number
            if rewind is None and outcome is StepOutcome.SKIPPED:
                logger.warning(f"step {number} is skipped: {self._guard.seen}")
            if rewind is None and outcome is StepOutcome.REWIND:
                rewind, but = RewindError(number, step.mix, step.samples, self._guard.seen), 0
        if rewind is not None:
            raise rewind

    def _recorded(self, step: _Launched) -> StepOutcome:
        """Wait for a step's loss and norm; record it, and return what the guard makes of it."""
        loss, norm, *of_routers = step.arriving.read()
        outcome = self._guard.observe(step.kind, loss, step.forgiven or is_number(norm))
        began, self._judged_at = self._judged_at, time.monotonic()
        seconds = self._judged_at - began
        self._context.state.seconds += seconds
        records, (stage, _) = self._context.records, step.kind
        speed = records.device.speed(step.flops.model_total, step.tokens, seconds)
        # Without ZeRO, in fp32, DeepSpeed has none.
        normed = self._model.engine.get_global_grad_norm() is not None
        measured = {"loss": loss, "grad_norm": norm if normed else None, "seconds": seconds, "mfu": speed.mfu}
        measured |= {"skipped": self._guard.skipping} | dict(zip(ROUTER_KEYS, of_routers, strict=False))
        records.step(step.known | measured, speed)
        records.progress.step(step.number, stage, loss, speed, step.flops.executed_total, seconds)
        self._context.watchdog.reached(step.number)
        return outcome

    def _read(self, request: tuple[StagePlan, int]) -> PackedBatches | UnpackedBatches:
        """Return this rank's micro-batches of a stage's step that begins behind so many samples; on any thread."""
        plan, taken = request
        batches, sequences = self._context.mixes.training(plan.mix), self._model.sequences
        rank, ranks = sequences.data_parallel_rank, sequences.data_parallel_size
        mine = rank_samples(taken, plan.batch_size, plan.micro_batch_size, rank, ranks)
        read = [sequences.sliced(batches.training(samples)) for samples in mine]
        if self._model.family.objective == "mlm":
            read = [batch.located() for batch in read]
        if distributed.device().type == "cpu":
            return UnpackedBatches(read)
        distributed.bind()
        return PackedBatches(read, pinned=True)

    def _next_batches(self) -> _Batches:
        """Take the step's micro-batches, and have those of the next one read; raises DamagedDataError as `launch` does."""
        context, plan, state = self._context, self._plan, self._context.state
        taken = state.samples.get(plan.mix.name, 0)
        read = context.data_watch.read(lambda: [self._reader.take((plan, taken))])
        minutes = context.recipe.checkpointing.every_minutes
        late = minutes is not None and time.monotonic() - self._saved_at > 60 * minutes
        scored, asked, written, due, faults, used = distributed.total(
            sum(batches.scored for batches in read),
            float(context.stop.asked),
            float(context.checkpoints.written),
            float(late and distributed.rank() == 0),
            *context.data_watch.signs,
        )
        if faults:
            raise context.data_watch.agreed(state.step, used=used > 0)
        if written == distributed.world_size():
            context.checkpoints.finish()
        if state.step + 1 < plan.end and not asked:
            self._reader.begin((plan, taken + plan.batch_size))
        return _Batches(read[0], scored, asked > 0, due > 0)

    def _forward_backward(self, batches: _Batches, active: ActiveLayers) -> tuple[torch.Tensor, Collection[torch.Tensor]]:
        """Launch this step's micro-batches.

        Returns the loss over all ranks, and of a mixture the numbers of `ROUTER_KEYS`; all on the device.
        """
        model, family, balance, plan = self._model, self._model.family, self._balance, self._plan
        losses, micro_batches = [], batches.here.on(distributed.device())
        for batch in micro_batches:
            with (
                running(model.module, family, active),
                scoring(model.module, family, batch.labels, batch.scored_positions) as labels,
                nullcontext() if balance is None else balance.watching(),
            ):
                logits = model.logits(**batch.inputs(distributed.device()))
            # Of a pair batch every sequence is a pair.
            loss = summed_losses(logits, labels, batch.pair_labels).mean(batches.scored, plan.batch_size)
            # DeepSpeed averages over ranks and micro-batches; the means are over the global batch.
            minimized = loss if balance is None else loss + balance.loss(plan.tokens)
            model.engine.backward(with_poison(minimized) * (distributed.world_size() * len(micro_batches)))
            model.engine.step()
            losses.append(loss.detach())
        summed = torch.stack(losses).double().sum()
        if balance is not None:
            return summed, balance.add_up(summed).values()
        distributed.add_up(summed)
        return summed, ()
