"""The training loop of one model: its stages, step by step."""

import resource
import sys
import time
from dataclasses import dataclass, field

import torch
from deepspeed.accelerator import get_accelerator

from pipeline import keyed
from pipeline.data.batches import Batches, rank_samples
from pipeline.flops.counts import training_step
from pipeline.flops.ledger import Ledger
from pipeline.recipe import Recipe, StageConfig
from pipeline.training import distributed
from pipeline.training.checkpoints import Checkpoints, Saved
from pipeline.training.engine import TrainedModel
from pipeline.training.evaluate import heldout_loss, summed_loss
from pipeline.training.metrics import JsonLines
from pipeline.training.progress import Progress
from pipeline.training.schedule import rate_factor
from pipeline.training.signals import Stopped, StopRequest
from pipeline.training.submodel import draw_depth, submodel


@dataclass
class Position:
    """How far a run has come; what a checkpoint restores."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    ledger: Ledger = field(default_factory=Ledger)

    @classmethod
    def restored(cls, saved: Saved) -> "Position":
        """The position that a checkpoint describes."""
        ledger = Ledger(dict(saved.flops_model), dict(saved.flops_executed))
        return cls(saved.step, saved.samples, saved.tokens, saved.seconds, ledger)

    def saved(self, model: str, norms_weighted_until: int | None) -> Saved:
        """This position as a checkpoint describes it."""
        return Saved(
            model=model,
            step=self.step,
            samples=self.samples,
            tokens=self.tokens,
            seconds=self.seconds,
            flops_model=self.ledger.model,
            flops_executed=self.ledger.executed,
            norms_weighted_until=norms_weighted_until,
        )


@dataclass
class Records:
    """Where a run writes what happens."""

    metrics: JsonLines
    evaluations: JsonLines
    checkpoints: Checkpoints
    progress: Progress

    def evaluation(self, step: int, stage: str, loss: float, tokens: int) -> None:
        """Record one evaluation, on rank 0."""
        if distributed.rank() == 0:
            self.evaluations.append({"step": step, "stage": stage, "loss": loss, "scored_tokens": tokens})
        self.progress.say(f"{stage}: step {step}, held-out loss {loss:.4f}")


class Trainer:
    """Trains one model through its stages, from `first_step` of the run on."""

    def __init__(
        self,
        role: str,
        model: TrainedModel,
        stages: list[StageConfig],
        first_step: int,
        recipe: Recipe,
        training: Batches,
        heldout: Batches,
        position: Position,
        records: Records,
        stop: StopRequest,
    ) -> None:
        self._role = role
        self._model = model
        self._stages = stages
        self._first_step = first_step
        self._recipe = recipe
        self._training = training
        self._heldout = heldout
        self._position = position
        self._records = records
        self._stop = stop
        self._batch_size = model.engine.train_batch_size()
        self._micro_batch_size = model.engine.train_micro_batch_size_per_gpu()

    def train(self) -> float:
        """Run the steps that are left and return the last held-out loss.

        Raises Stopped, after saving, where any rank was asked to stop.
        """
        self._stop.defer()
        steps = sum(stage.steps for stage in self._stages)
        loss = None
        self._model.reach(self._position.step - self._first_step)
        while (done := self._position.step - self._first_step) < steps:
            stage, ends = self._stage_at(done)
            stopping = self._step(stage, done, steps)
            done += 1
            self._model.reach(done)
            if ends == done or done % self._recipe.evaluation.every == 0:
                loss = self.evaluate(stage.name)
            if stopping or ends == done or done % self._recipe.checkpointing.every == 0:
                self._records.checkpoints.save(self._model, self._position.saved(self._role, self._weighted_until(done)))
            if stopping and done < steps:
                raise Stopped
        return self.evaluate(None) if loss is None else loss

    def evaluate(self, stage: str | None) -> float:
        """Return the held-out loss, recorded under `stage` where one is given."""
        self._model.engine.eval()
        loss, tokens = heldout_loss(self._model.logits, self._heldout, self._recipe.evaluation.windows, self._micro_batch_size)
        self._model.engine.train()
        if stage is not None:
            self._records.evaluation(self._position.step, stage, loss, tokens)
        return loss

    def _weighted_until(self, done: int) -> int | None:
        """The step of the run from which on the norms are stock, where they are not yet."""
        norms = self._model.norms
        return None if norms is None or done >= norms.steps else self._first_step + norms.steps

    def _stage_at(self, done: int) -> tuple[StageConfig, int]:
        """The stage that the step after `done` belongs to, and the count of steps at which it ends."""
        end = 0
        for stage in self._stages:
            end += stage.steps
            if done < end:
                return stage, end
        raise AssertionError("no stage is left")

    def _step(self, stage: StageConfig, done: int, steps: int) -> bool:
        """Take one optimizer step; return whether any rank was asked to stop."""
        began = time.monotonic()
        position, model = self._position, self._model
        depth = None
        if stage.submodel_layers is None:
            model.train_all()
        else:
            key = (self._recipe.seed, stage.name, position.step)
            depth = draw_depth(model.sizes.num_hidden_layers, stage.submodel_layers, key)
            model.train_top(depth, stage.submodel_layers)
        rate = (stage.lr or self._recipe.optimizer.lr) * rate_factor(self._recipe.schedule, done, steps)
        model.set_rate(rate)
        # Dropout, where a recipe sets any, is a function of the step, so that a resumed run draws the same.
        key = ("dropout", self._recipe.seed, position.step, distributed.rank())
        torch.manual_seed(int(keyed.words(key, 0, 1)[0]) >> 1)

        loss, stopping = self._forward_backward(depth, stage.submodel_layers)

        sequence_length = self._recipe.data.sequence_length
        tokens = self._batch_size * sequence_length
        flops = training_step(model.family, model.sizes, sequence_length, tokens, depth, stage.submodel_layers)
        position.step += 1
        position.samples += self._batch_size
        position.tokens += tokens
        position.ledger.add(stage.name, flops)
        seconds = time.monotonic() - began
        position.seconds += seconds
        norm = model.engine.get_global_grad_norm()
        if distributed.rank() == 0:
            self._records.metrics.append(
                {
                    "step": position.step,
                    "stage": stage.name,
                    "submodel_layers": depth,
                    "loss": loss,
                    "lr": rate,
                    "grad_norm": None if norm is None else float(norm),
                    "tokens": position.tokens,
                    "flops_model": flops.model,
                    "flops_executed": flops.executed,
                    "flops_total": position.ledger.total,
                    "seconds": seconds,
                }
            )
        self._records.progress.step(position.step, stage.name, loss, tokens / seconds)
        return stopping

    def _forward_backward(self, depth: int | None, trained: int | None) -> tuple[float, bool]:
        """Run this step's micro-batches; return the loss over all ranks and whether any was asked to stop."""
        model = self._model
        ranks = distributed.world_size()
        micro_batches = [
            self._training.training(samples)
            for samples in rank_samples(
                self._position.samples, self._batch_size, self._micro_batch_size, distributed.rank(), ranks
            )
        ]
        scored, asked = distributed.total(sum(batch.scored for batch in micro_batches), float(self._stop.asked))
        scored = max(scored, 1)  # a tiny masked batch may score nothing
        # DeepSpeed averages over ranks and micro-batches; the loss is a sum over the global batch's scored tokens.
        scale = ranks * len(micro_batches) / scored
        summed = 0.0
        for batch in micro_batches:
            inputs = batch.inputs(distributed.device())
            if depth is None:
                loss = summed_loss(model.logits(*inputs), batch.labels)
            else:
                with submodel(model.module, model.family, depth, trained):
                    loss = summed_loss(model.logits(*inputs), batch.labels)
            model.engine.backward(loss * scale)
            model.engine.step()
            summed += loss.item()
        (summed,) = distributed.total(summed)
        return summed / scored, asked > 0


def peak_memory() -> dict[str, float]:
    """Return this rank's peak resident memory, and its accelerator's where there is one, in GiB."""
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    if get_accelerator().device_name() != "cpu":
        peaks["device_gib"] = get_accelerator().max_memory_allocated() / 2**30
    return peaks
