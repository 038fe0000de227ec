"""How far the law is from runs that it has not seen: each grown run foretold by all the others."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.planning.law import Law, fit, training_of
from pipeline.planning.record import RunEntry


@dataclass(frozen=True)
class Judged:
    """A grown run beside what the law told of it without it."""

    name: str
    foretold: float
    """Nats."""
    loss: float
    saved_foretold: float
    saved: float

    @property
    def points(self) -> float:
        """By how many points of the compute saved it was wrong."""
        return 100 * abs(self.saved_foretold - self.saved)


def left_out(law: Law, entries: Sequence[RunEntry], setting: str) -> list[Judged]:
    """Foretell each grown run of a setting by a fit on all runs of another configuration.

    What a run saved is told by the law's own curve of its last size from scratch, which the runs of that size bind.
    """
    runs = [(training_of(entry), entry["loss"]) for entry in entries]
    found = []
    for entry, (training, loss) in zip(entries, runs, strict=True):
        if not training.growths or training.setting != setting:
            continue
        other = fit([one for one in runs if one[0] != training], law)
        foretold = other.loss(training)
        found.append(Judged(entry["name"], foretold, loss, saved(other, entry, foretold), saved(law, entry, loss)))
    return found


def saved(law: Law, entry: RunEntry, loss: float) -> float:
    """Return what a run saves that comes to a loss: 1 - c / C, C being what its last size from scratch takes to that loss."""
    last = entry["phases"][-1]
    tokens = law.tokens_to(training_of(entry).setting, last["parameters"], loss)
    return 1 - entry["flops"] / (tokens * last["flops"] / last["tokens"])
