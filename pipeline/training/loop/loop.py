"""The training loop of one model: its stages, step by step."""

from pipeline.training.engine import TrainedModel
from pipeline.training.loop.between_steps import BetweenSteps
from pipeline.training.loop.certification import Certification
from pipeline.training.loop.context import LoopContext
from pipeline.training.loop.data_watch import DamagedDataError
from pipeline.training.loop.steps import Steps
from pipeline.training.plan.training_plan import StagePlan
from pipeline.training.signals import Stopped


class Trainer:
    """Trains one model of a run through its stages.

    A step is judged when the next one has been launched, and before anything else is done: an evaluation, a checkpoint, the
    end of a stage or of the run.
    """

    def __init__(self, phase: int, model: TrainedModel, context: LoopContext, certification: Certification) -> None:
        """`certification` makes the certificate of the growth that the model comes from, where that is still to be made."""
        self._stages = context.plan.of_phase(phase)
        self.model = model
        self.context = context
        self._certification = certification
        self.steps = Steps(phase, model, context)
        self.between = BetweenSteps(phase, model, context, certification, self.steps)

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
            for plan in self._stages:
                if self.context.state.step < plan.end:
                    loss = self._train_stage(plan)
        finally:
            self.steps.close()
        return self.between.evaluate(None) if loss is None else loss

    def _train_stage(self, plan: StagePlan) -> float:
        """Run what is left of a stage; return the held-out loss at its end."""
        context, steps, between = self.context, self.steps, self.between
        state, every = context.state, context.recipe.evaluation.every
        steps.begin_stage(plan)
        while True:
            try:
                stopping, due = steps.launch()
            except DamagedDataError as error:
                steps.judge()
                between.save_before_a_fault(used=error.used)
                raise
            ended = state.step == plan.end
            evaluates = ended or state.step % every == 0
            scores = ended or context.tasks.due(state.step)
            certifies = self._certification.due
            due |= state.step % context.recipe.checkpointing.every == 0
            steps.judge(0 if certifies or evaluates or scores or due or stopping else steps.ahead)
            self.model.reach(steps.done)
            if certifies:
                between.begin_to_certify()
            if evaluates:
                loss = between.evaluate(plan.stage.name)
            if scores:
                between.score(plan)
            # A run that goes back is to find what was there before it went wrong.
            if stopping or ended or (due and not steps.skipping):
                between.save(must=stopping or ended)
            if stopping and state.step < context.plan.steps:
                raise Stopped
            if ended:
                return loss
