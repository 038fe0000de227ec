"""What the steps of a run have in common, whichever of its models they train."""

from dataclasses import dataclass

from pipeline.recipe import Recipe
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.loop.data_watch import DataWatch
from pipeline.training.loop.records import Records
from pipeline.training.loop.tasks import Tasks
from pipeline.training.monitoring.watchdog import Watchdog
from pipeline.training.plan.data_mixes import DataMixes
from pipeline.training.plan.training_plan import TrainingPlan
from pipeline.training.signals import StopRequest


@dataclass
class LoopContext:
    """One way through the steps that are left: to the run's end, or to where its guard has it go back."""

    recipe: Recipe
    plan: TrainingPlan
    mixes: DataMixes
    data_watch: DataWatch
    tasks: Tasks
    stop: StopRequest
    checkpoints: Checkpoints
    watchdog: Watchdog
    records: Records
    state: TrainState
