"""The models that a recipe trains, one grown from the other, as its stages say in turn."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
    target: TargetConfig | None
    growth: GrowthConfig | None
    stages: tuple[TrainStage, ...]


@dataclass
class PhasesInTheMaking:
    """What each stage of a recipe is applied to, one after the other."""

    growth: GrowthConfig
    """How a model grows where a stage does not say."""
    _begun: list[ModelPhase] = field(default_factory=lambda: [ModelPhase(0, SOURCE_STAGE, None, None, ())])

    def train(self, stage: TrainStage) -> None:
        """Train the model that is there."""
        self._begun[-1] = replace(self._begun[-1], stages=(*self._begun[-1].stages, stage))

    def grow(self, name: str, target: TargetConfig, growth: GrowthConfig | None) -> None:
        """Grow the model that is there, and begin a phase with the new one."""
        self._begun.append(ModelPhase(len(self._begun), name, target, growth or self.growth, ()))

    def apply(self, stages: Sequence[Stage]) -> list[ModelPhase]:
        """Return the phases as all of the stages have them."""
        for stage in stages:
            stage.apply(self)
        return self._begun
