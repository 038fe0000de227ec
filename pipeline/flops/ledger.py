"""The FLOPs of a run, stage by stage and part by part, and of what it stands on."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.common.files import write_json
from pipeline.flops.counts import PARTS, StepFlops

LEDGER = "ledger.json"
"""The file beside an exported model."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a run, or a run and its sources together, came to."""

    flops: StepFlops
    wasted: int
    """Executed FLOPs of steps whose results were lost; not among `flops`."""
    complete: bool
    """False where a model came in whose own pre-training is not known."""

    @property
    def spent(self) -> int:
        """All executed FLOPs, waste included."""
        return self.flops.executed_total + self.wasted

    @property
    def missing(self) -> str | None:
        """Why the figures are less than what was spent, in words that follow what the line is of; None where they are not."""
        if self.complete:
            return None
        return "what it began from came without a ledger" if self.spent else "it came without a ledger"

    def qualified(self, amount: str) -> str:
        """Return `amount`, which is some of the line's FLOPs as a text, as what is known of them."""
        if self.complete:
            return amount
        return f"at least {amount}" if self.spent else "not known"


@dataclass(slots=True)
class Ledger:
    """FLOPs by stage and part, model and executed, with separate lines for waste and for each source.

    Evaluation is not counted: it is no part of what a method costs. A ledger goes with its model through checkpoints,
    resumes and growths, and stands beside exported models.
    """

    stages: dict[str, StepFlops] = field(default_factory=dict)
    """Steps that were taken and not lost, those that the guard skipped among them."""
    wasted: int = 0
    """Executed FLOPs of steps that were taken and lost: after a crash, or before a rewind."""
    inherited: dict[str, Line] = field(default_factory=dict)
    """The sources' own pre-training, by where each came from."""

    def add(self, stage: str, step: StepFlops) -> None:
        """Book one step."""
        self.stages[stage] = self.stages.get(stage, StepFlops()) + step

    def waste(self, lost: StepFlops | int) -> None:
        """Book steps that are to be taken again, and are not, or no longer, among the stages."""
        self.wasted += lost if isinstance(lost, int) else lost.executed_total

    def inherit(self, origin: str, source: "Ledger | None") -> None:
        """Book the pre-training of the source that came from `origin`.

        Its stages, its waste and what it inherited itself become one line. None: nothing is known of it. What was booked
        first stays, since a source may have trained on, or be gone, when the run that began from it is resumed.
        """
        if origin not in self.inherited:
            self.inherited[origin] = Line(StepFlops(), 0, complete=False) if source is None else source.whole

    @property
    def parts(self) -> StepFlops:
        """FLOPs of this run by part, all stages together."""
        return sum(self.stages.values(), StepFlops())

    @property
    def total(self) -> int:
        """Executed FLOPs of this run's stages together.

        Without waste: curves over it and horizons counted in it are those of a run that was never disturbed.
        """
        return sum(flops.executed_total for flops in self.stages.values())

    @property
    def sources(self) -> Line:
        """All that it inherited."""
        return _joined(self.inherited.values())

    @property
    def whole(self) -> Line:
        """This run and all that it inherited."""
        return _joined([Line(self.parts, self.wasted, complete=True), self.sources])

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as dicts, strings and whole numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Ledger":
        """Return the ledger that `to_json` wrote; raises ValueError where it did not."""
        try:
            return cls(
                {stage: _flops(flops) for stage, flops in content["stages"].items()},
                _count(content["wasted"]),
                {
                    origin: Line(_flops(line["flops"]), _count(line["wasted"]), line["complete"] is True)
                    for origin, line in content["inherited"].items()
                },
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no ledger of FLOPs: {error!r}") from None


def write_ledger(directory: Path, ledger: Ledger) -> None:
    """Write the ledger of the model in `directory` beside it."""
    write_json(directory / LEDGER, ledger.to_json())


def _joined(lines: Collection[Line]) -> Line:
    return Line(
        sum((line.flops for line in lines), StepFlops()),
        sum(line.wasted for line in lines),
        all(line.complete for line in lines),
    )


def _flops(content: dict[str, Any]) -> StepFlops:
    return StepFlops(
        {part: _count(content["model"][part]) for part in PARTS}, {part: _count(content["executed"][part]) for part in PARTS}
    )


def _count(value: Any) -> int:
    # A float would have lost the last digits.
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value
