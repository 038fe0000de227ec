"""How far a run has come."""

from dataclasses import dataclass, field

from pipeline.flops.ledger import Ledger
from pipeline.training.directory.checkpoints import CheckpointMetadata


@dataclass
class TrainState:
    """How far a run has come; what a checkpoint restores."""

    step: int = 0
    samples: dict[str, int] = field(default_factory=dict)
    """Samples taken of each data mix."""
    tokens: int = 0
    seconds: float = 0.0
    ledger: Ledger = field(default_factory=Ledger)
    rewinds: int = 0
    expert_loads: list[list[int]] | None = None
    """Those of the checkpoint."""

    @classmethod
    def restored(cls, saved: CheckpointMetadata) -> "TrainState":
        """The state that a checkpoint describes."""
        ledger = Ledger.from_json(saved.ledger)
        return cls(saved.step, dict(saved.samples), saved.tokens, saved.seconds, ledger, saved.rewinds, saved.expert_loads)

    def metadata(
        self, phase: int, norms_weighted_until: int | None, expert_loads: list[list[int]] | None
    ) -> CheckpointMetadata:
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
