"""The models that a recipe trains, one grown from the other, as its stages say in turn."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.recipe.growth import GrowthConfig
from pipeline.recipe.models import TargetConfig
from pipeline.recipe.stages import Stage, TrainStage

SOURCE_STAGE = "source"
"""The name under which the source's own training is logged."""

GROWN_STAGE = "grown"
"""The name under which the evaluation right after the first growth is logged."""


@dataclass(frozen=True, slots=True)
class ModelPhase:
    """The training of one model, from its growth (or beginning) to the next."""

    number: int
    """How often the model has been grown: 0 is the source."""
    name: str
    """Of the growth that it begins with."""
    stages: tuple[TrainStage, ...]


@dataclass(frozen=True, slots=True)
class GrownPhase(ModelPhase):
    """The training of a model that was grown in the run."""

    target: TargetConfig
    growth: GrowthConfig


class PhasesInTheMaking:
    """What each stage of a recipe is applied to, one after the other."""

    def __init__(self, growth: GrowthConfig) -> None:
        """`growth` is how a model grows where a stage does not say."""
        self._growth = growth
        self._growths: list[tuple[str, TargetConfig, GrowthConfig]] = []
        self._trained: list[list[TrainStage]] = [[]]
        """Of the source, and of each model grown from it."""

    def train(self, stage: TrainStage) -> None:
        """Train the model that is there."""
        self._trained[-1].append(stage)

    def grow(self, name: str, target: TargetConfig, growth: GrowthConfig | None) -> None:
        """Grow the model that is there, and begin a phase with the new one."""
        self._growths.append((name, target, growth or self._growth))
        self._trained.append([])

    def apply(self, stages: Sequence[Stage]) -> tuple[ModelPhase, list[GrownPhase]]:
        """Return the source's phase and the others as all of the stages have them."""
        for stage in stages:
            stage.apply(self)
        source, *others = map(tuple, self._trained)
        grown = [
            GrownPhase(number, name, trained, target, growth)
            for number, (trained, (name, target, growth)) in enumerate(zip(others, self._growths, strict=True), 1)
        ]
        return ModelPhase(0, SOURCE_STAGE, source), grown
