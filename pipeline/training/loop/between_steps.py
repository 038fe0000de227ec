"""What is done between two steps of a model: evaluations, scores of tasks, checkpoints, the certificate of its growth."""

from functools import partial

from pipeline.common.errors import UserError
from pipeline.common.heartbeat import beat
from pipeline.training.engine import TrainedModel
from pipeline.training.loop.certification import Certification
from pipeline.training.loop.context import LoopContext
from pipeline.training.loop.evaluate import heldout_loss
from pipeline.training.loop.running import scoring
from pipeline.training.loop.steps import Steps
from pipeline.training.plan.training_plan import StagePlan


class BetweenSteps:
    """Looks at a model and saves it while none of its steps is under way."""

    def __init__(
        self, phase: int, model: TrainedModel, context: LoopContext, certification: Certification, steps: Steps
    ) -> None:
        self._phase = phase
        self._model = model
        self._context = context
        self._certification = certification
        self._steps = steps

    def begin_to_certify(self) -> None:
        """Measure the source of the growth, whose certificate is finished before anything rests on the grown model."""
        self._steps.wait_for_reader()
        self._certification.begin()

    def evaluate(self, stage: str | None) -> float:
        """Return the held-out loss, recorded under `stage` where one is given.

        Raises UserError, after saving, where the held-out text is not what was prepared.
        """
        self._certification.finish()
        model, context = self._model, self._context
        self._steps.wait_for_reader()
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
            self.save_before_a_fault()
            raise
        finally:
            model.engine.train()
        if stage is not None:
            context.records.evaluation(context.state.step, stage, heldout)
        return heldout.loss

    def score(self, plan: StagePlan) -> None:
        """Record what the run's tasks make of the model."""
        self._certification.finish()
        self._steps.wait_for_reader()
        context = self._context
        scores = context.tasks.score(self._model, plan.stage.name, context.state.step, plan.mix.sequence_length)
        context.records.scored(scores)

    def save(self, *, must: bool) -> None:
        """Save a checkpoint; one that `must` be is on disk when this returns."""
        self._certification.finish()
        context = self._context
        # On disk before the checkpoint is: a run that goes on from there finds all steps up to it.
        context.records.flush()
        weighted_until = self._weighted_until(self._steps.done)
        metadata = context.state.metadata(self._phase, weighted_until, self._steps.expert_loads)
        context.checkpoints.save(self._model, metadata, must=must)
        context.data_watch.remember()
        self._steps.saved()
        beat()

    def save_before_a_fault(self, *, used: bool = False) -> None:
        """Save what is not saved yet, if it can be: it is not why the run ends. Not where damaged data was `used`."""
        checkpoints, step = self._context.checkpoints, self._context.state.step
        # Nothing of the step was done; what was done before is worth keeping where it is beyond doubt.
        if not used and self._steps.done > 0 and (checkpoints.last is None or checkpoints.last.step < step):
            self.save(must=False)
        checkpoints.finish()

    def _weighted_until(self, done: int) -> int | None:
        """The step of the run from which on the norms are stock, where they are not yet."""
        norms = self._model.norms
        return None if norms is None or done >= norms.steps else self._context.state.step - done + norms.steps
