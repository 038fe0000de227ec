"""Compute saved: at what cost a run first reaches the held-out loss that the baseline ends with.

For a baseline that was trained from scratch, with final held-out loss L* and cost C* (means over its runs), a run that first
reaches L* at cost c saves 1 - c / C*. Between two evaluations the loss is taken to fall in a straight line. Costs are
executed FLOPs, tokens, steps or seconds, without what was lost to crashes and rewinds, and without evaluation. This is the
"cost saving" of bert2BERT (figure 1, table 2) and NAI (figures 10 and 11), measured on held-out and not on training loss.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Curve:
    """Held-out losses of one run's target model, and what had been spent by each; spent only ever grows."""

    spent: tuple[float, ...]
    losses: tuple[float, ...]

    def first_reached(self, target: float) -> float | None:
        """What had been spent when the loss first was `target`; None where it never was.

        Where already the first loss is as low, that is what had been spent by then.
        """
        before: tuple[float, float] | None = None
        for spent, loss in zip(self.spent, self.losses, strict=True):
            if loss <= target:
                if before is None:
                    return spent
                start, above = before
                return start + (spent - start) * (above - target) / (above - loss)
            before = spent, loss
        return None


@dataclass(frozen=True, slots=True)
class Reference:
    """What a saving is measured against."""

    loss: float
    """The loss to reach."""
    spent: float
    """What the baseline spent."""


@dataclass(frozen=True, slots=True)
class Saving:
    """What the runs of one method saved, as shares of what the baseline spent."""

    shares: tuple[float, ...]
    """One for each run that reached the loss."""
    runs: int
    """All of them."""

    @property
    def mean(self) -> float | None:
        """Over the runs that reached the loss; None where none did."""
        return statistics.fmean(self.shares) if self.shares else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation of a sample; None of fewer than two."""
        return statistics.stdev(self.shares) if len(self.shares) > 1 else None

    @property
    def all_reached(self) -> bool:
        """Whether all runs reached the loss."""
        return len(self.shares) == self.runs

    @property
    def at_once(self) -> bool:
        """Whether those that reached the loss had it from the growth on."""
        return all(share == 1 for share in self.shares)


def reference(baseline: Sequence[Curve]) -> Reference | None:
    """Return the baseline's final loss and what it spent, means over its runs; None where none was evaluated."""
    ended = [curve for curve in baseline if curve.losses]
    if not ended:
        return None
    return Reference(
        statistics.fmean(curve.losses[-1] for curve in ended), statistics.fmean(curve.spent[-1] for curve in ended)
    )


def saving(curves: Sequence[Curve], against: Reference) -> Saving:
    """Return what a method's runs saved."""
    reached = [curve.first_reached(against.loss) for curve in curves]
    return Saving(tuple(1 - spent / against.spent for spent in reached if spent is not None), len(curves))


def saved_at(curves: Sequence[Curve], baseline: Sequence[Curve], target: float) -> list[float]:
    """Return what each of a method's runs saved by the time of any loss, against the baseline's mean cost of that loss.

    Empty where a run of either never reached it, so that a mean over runs is always one over all of them.
    """
    own, others = ([curve.first_reached(target) for curve in of] for of in (curves, baseline))
    known = [spent for spent in others if spent is not None]
    reached = [spent for spent in own if spent is not None]
    if not others or (len(known), len(reached)) != (len(others), len(own)) or not any(known):
        return []
    cost = math.fsum(known) / len(known)
    return [1 - spent / cost for spent in reached]


def percent(saving: Saving | None) -> str:
    """Return a saving in percent, with what is to be known of its runs."""
    if saving is None:
        return "not known"
    if saving.mean is None:
        return "not reached"
    mean = f"{100 * saving.mean:.1f} %".replace("-", "−")
    if saving.deviation is not None:
        mean += f" ± {100 * saving.deviation:.1f}"
    return mean if saving.all_reached else f"{mean} ({len(saving.shares)} of {saving.runs} runs)"
