"""The training loop of one model: its stages, step by step, and what is done between two of its steps."""

from functools import partial

from pipeline.common.errors import UserError
from pipeline.common.heartbeat import beat
from pipeline.training.engine import TrainedModel
from pipeline.training.loop.context import LoopContext
from pipeline.training.loop.data_watch import DamagedDataError
from pipeline.training.loop.evaluate import heldout_loss
from pipeline.training.loop.running import scoring
from pipeline.training.loop.steps import Steps
from pipeline.training.plan.training_plan import StagePlan
from pipeline.training.signals import Stopped


class Certification:
    """What the loop does for the certificate of a growth: nothing, of a model that is certified or was not grown."""

    @property
    def due(self) -> bool:
        """Whether `begin` is to be called behind the model's first step."""
        return False

    def begin(self) -> None:
        """Measure what needs no longer wait; a collective call."""

    def finish(self) -> None:
        """Have the certificate written, before anything that outlasts the process depends on the model; a collective call."""

    def close(self) -> None:
        """Wait for what was started, however it ends."""


class Trainer:
    """Trains one model of a run through its stages.

    A step is judged when the next one has been launched, and before anything else is done: an evaluation, a checkpoint, the
    end of a stage or of the run.
    """

    def __init__(self, phase: int, model: TrainedModel, context: LoopContext, certification: Certification) -> None:
        """`certification` makes the certificate of the growth that the model comes from, where that is still to be made."""
        self._phase = phase
        self._certification = certification
        self.model = model
        self.context = context
        self.steps = Steps(phase, model, context)

    def train(self) -> float:
        """Run the steps that are left and return the last held-out loss.

        Raises Stopped, after saving, where any rank was asked to stop, RewindError where the guard says so, and
        DamagedDataError where data is not what was prepared: after saving, unless steps may have been trained on it.
        """
        self.context.stop.defer()
        self.context.records.progress.rest()
        self.model.reach(self.steps.done)
        loss = None
        try:
            for plan in self.context.plan.of_phase(self._phase):
                if self.context.state.step < plan.end:
                    loss = self._train_stage(plan)
        finally:
            self.steps.close()
        return self.evaluate(None) if loss is None else loss

    def _train_stage(self, plan: StagePlan) -> float:
        """Run what is left of a stage; return the held-out loss at its end."""
        context, steps, state = self.context, self.steps, self.context.state
        steps.begin_stage(plan)
        while True:
            try:
                stopping, due = steps.launch()
            except DamagedDataError as error:
                steps.judge()
                self._save_before_a_fault(used=error.used)
                raise
            ended = state.step == plan.end
            evaluates = ended or state.step % context.recipe.evaluation.every == 0
            scores = ended or context.tasks.due(state.step)
            certifies = self._certification.due
            due |= state.step % context.recipe.checkpointing.every == 0
            steps.judge(0 if certifies or evaluates or scores or due or stopping else steps.ahead)
            self.model.reach(steps.done)
            if certifies:
                # The certificate is finished before anything rests on the grown model.
                steps.wait_for_reader()
                self._certification.begin()
            if evaluates:
                loss = self.evaluate(plan.stage.name)
            if scores:
                self._score(plan)
            # A run that goes back is to find what was there before it went wrong.
            if stopping or ended or (due and not steps.skipping):
                self._save(must=stopping or ended)
            if stopping and state.step < context.plan.steps:
                raise Stopped
            if ended:
                return loss

    def evaluate(self, stage: str | None) -> float:
        """Return the held-out loss, recorded under `stage` where one is given.

        Raises UserError, after saving, where the held-out text is not what was prepared.
        """
        self._certification.finish()
        model, context = self.model, self.context
        self.steps.wait_for_reader()
        model.engine.eval()
        try:
            heldout = heldout_loss(
                model.logits,
                partial(scoring, model.module, model.family),
                context.mixes.heldout,
                context.recipe.evaluation.windows,
                model.engine.train_micro_batch_size_per_gpu(),
                model.sequences,
            )
        except UserError:
            self._save_before_a_fault()
            raise
        finally:
            model.engine.train()
        if stage is not None:
            context.records.evaluation(context.state.step, stage, heldout)
        return heldout.loss

    def _score(self, plan: StagePlan) -> None:
        """Record what the run's tasks make of the model."""
        self._certification.finish()
        self.steps.wait_for_reader()
        context = self.context
        scores = context.tasks.score(self.model, plan.stage.name, context.state.step, plan.mix.sequence_length)
        context.records.scored(scores)

    def _save(self, *, must: bool) -> None:
        """Save a checkpoint; one that `must` be is on disk when this returns."""
        self._certification.finish()
        context, done, norms = self.context, self.steps.done, self.model.norms
        # On disk before the checkpoint is: a run that goes on from there finds all steps up to it.
        context.records.flush()
        # None where the norms are stock by now.
        weighted_until = None if norms is None or done >= norms.steps else context.state.step - done + norms.steps
        saved = context.state.copy(phase=self._phase, norms_weighted_until=weighted_until, expert_loads=self.steps.expert_loads)
        context.checkpoints.save(self.model, saved, must=must)
        context.data_watch.remember()
        self.steps.saved()
        beat()

    def _save_before_a_fault(self, *, used: bool = False) -> None:
        """Save what is not saved yet, if it can be: it is not why the run ends. Not where damaged data was `used`."""
        checkpoints, step = self.context.checkpoints, self.context.state.step
        # Nothing of the step was done; what was done before is worth keeping where it is beyond doubt.
        if not used and self.steps.done > 0 and (checkpoints.last is None or checkpoints.last.step < step):
            self._save(must=False)
        checkpoints.finish()
