"""The FLOPs of a run by stage, the source's own pre-training a line of its own."""

from dataclasses import dataclass, field

from pipeline.flops.counts import StepFlops


@dataclass(slots=True)
class Ledger:
    """Model and executed FLOPs by stage. Evaluation is not counted: it is no part of what a method costs."""

    model: dict[str, int] = field(default_factory=dict)
    executed: dict[str, int] = field(default_factory=dict)

    def add(self, stage: str, step: StepFlops) -> None:
        """Book one step."""
        self.model[stage] = self.model.get(stage, 0) + step.model
        self.executed[stage] = self.executed.get(stage, 0) + step.executed

    @property
    def total(self) -> int:
        """Executed FLOPs of all stages together."""
        return sum(self.executed.values())
