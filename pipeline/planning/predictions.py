"""What a law predicts of a schedule: loss, compute saved, how sure that is, and in what it lies beyond the runs."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.planning.law import Law, Parameters, Training
from pipeline.planning.schedules import Question, Schedule

HELD = 0.9
"""The share of outcomes that an interval is to hold."""

_OUTER = (50 * (1 - HELD), 50 * (1 + HELD))
"""Percentiles that it lies between."""


@dataclass(frozen=True)
class Row:
    """A schedule with what is predicted of it."""

    schedule: Schedule
    loss: float
    saved: float | None
    """Of the compute that the target from scratch takes to the same loss, a given source's own not counted; None where the
    target would never come to that loss, by the law."""
    interval: tuple[float, float]
    saved_counted: float | None
    """The same with the given source's own."""
    interval_counted: tuple[float, float]
    beyond: tuple[str, ...]
    """In what it lies beyond the runs that the law was fitted on."""
    label: str = ""
    claim: float | None = None
    """What a rule of thumb itself claims to save."""


@dataclass(frozen=True)
class Predictor:
    """A law, asked about the schedules of a question."""

    question: Question
    law: Law
    trainings: Sequence[Training]
    """What the law was fitted on."""
    off: float = 0.0
    """By how much nine of ten predicted savings of the setting's grown runs were wrong at most that the law had not seen."""

    @cached_property
    def goal(self) -> float:
        """The loss of the target from scratch."""
        return self.law.loss(self.question.scratch)

    @cached_property
    def least(self) -> float:
        """The fewest tokens that a smaller size is to be trained on: below half of the shortest run the law knows nothing."""
        return min(one.phases[0].tokens for one in self._own) / 2

    @cached_property
    def _own(self) -> list[Training]:
        """Those of the question's setting."""
        return [one for one in self.trainings if one.setting == self.question.setting]

    @cached_property
    def _noise(self) -> np.ndarray:
        """What a seed moves each single run by."""
        return self.law.noise * np.random.default_rng(0).standard_normal(len(self.law.others))

    def row(self, schedule: Schedule, label: str = "", claim: float | None = None) -> Row:
        """Return what the law predicts of a schedule."""
        training = schedule.training(self.question)
        beyond, factor = self._beyond(training)
        off = self.off if self._grows_differently(training) else 0.0
        loss = self.law.loss(training)
        alone = self._alone(self.law.fitted, training, 0.0)
        drawn = [self._alone(other, training, noise) for other, noise in zip(self.law.others, self._noise, strict=True)]
        # 1 - c / C of a schedule's c, without and with a given source's; of a C without end all.
        costs = (schedule.flops, schedule.whole_flops)
        saved = [1 - cost / alone for cost in costs]
        intervals = [
            _interval(one, [1 - cost / each for each in drawn], factor, off) for one, cost in zip(saved, costs, strict=True)
        ]
        shares = [None, None] if math.isinf(alone) else saved
        return Row(schedule, loss, shares[0], intervals[0], shares[1], intervals[1], beyond, label, claim)

    def _alone(self, of: Parameters, training: Training, noise: float) -> float:
        """C: the FLOPs that the target from scratch takes to a training's loss; infinite where it never comes to that."""
        tokens = self.law.tokens_to(
            self.question.setting, self.question.target.parameters, self.law.loss(training, of) + noise, of
        )
        return tokens / self.question.step_tokens * self.question.target.step_flops

    def _grows_differently(self, training: Training) -> bool:
        """Whether no run of the setting grew in this way, or as often: its prediction is then put together from others."""
        return not any(Counter(training.growths) <= Counter(one.growths) for one in self._own)

    def _beyond(self, training: Training) -> tuple[tuple[str, ...], float]:
        """Return in what a training lies beyond the runs, and by what factor its interval is wider for that."""
        grown = [one for one in self.trainings if one.growths]
        found, factor = [], 1.0
        largest = max(phase.parameters for phase in training.phases)
        limits = [
            ("parameters", largest, [phase.parameters for one in self._own for phase in one.phases]),
            ("tokens", training.tokens, [one.tokens for one in self._own]),
        ]
        if training.growths:
            ratios = [ratio for one in grown for ratio in _ratios(one)]
            limits.append(("times as many parameters in one growth", max(_ratios(training)), ratios))
        for what, asked, seen in limits:
            most = max(seen, default=0)
            if asked > 1.05 * most:
                found.append(f"{asked:.3g} {what}, where the runs had at most {most:.3g}")
                factor += math.log2(asked / most) if most else 1.0
        # Under another schedule a growth as late may be far from the decay of the rate, so its own runs tell.
        late = [one for one in grown if one.setting == self.question.setting] or grown
        after = _after_the_last(training)
        least = min((share for share in map(_after_the_last, late) if share is not None), default=None)
        if after is not None and least is not None and after < least / 1.05:
            found.append(f"{after:.0%} of the tokens after the last growth, where the runs had at least {least:.0%}")
            factor += math.log2(least / after)
        if training.growths and training.phases[0].tokens < self.least:
            found.append(
                f"{training.phases[0].tokens:.3g} tokens before the first growth, less than half of any run's first size"
            )
            factor += 1.0
        for traits in training.growths:
            for trait in traits:
                if not self.law.knows([trait]):
                    found.append(f"no run had `{trait}`")
                    factor += 0.5
        if training.growths and not any(one.setting == self.question.setting for one in grown):
            found.append("no run of this text grew: how growth goes on is taken from other runs")
            factor += 0.5
        elif training.growths and self._grows_differently(training):
            off = f", and nine in ten such predictions were off by at most {100 * self.off:.0f} points" if self.off else ""
            found.append(f"no run of this text grew in this way, or as often{off}")
        return tuple(dict.fromkeys(found)), factor


def _ratios(training: Training) -> list[float]:
    return [large.parameters / small.parameters for small, large in itertools.pairwise(training.phases)]


def _after_the_last(training: Training) -> float | None:
    """The share of the tokens of the last schedule that lies behind its last growth; None where it has none."""
    anew = [number for number, traits in enumerate(training.growths) if "schedule anew" in traits]
    phases = training.phases[anew[-1] + 1 :] if anew else training.phases
    return None if len(phases) == 1 else phases[-1].tokens / sum(phase.tokens for phase in phases)


def _interval(fitted: float, drawn: Sequence[float], factor: float, off: float) -> tuple[float, float]:
    """The interval of draws around the fit's value, `factor` times as wide, with an error of at most `off` as often."""
    if not drawn:
        return fitted, fitted
    low, middle, high = np.percentile(drawn, [_OUTER[0], 50.0, _OUTER[1]])
    # Around the fit itself: drawn priors move their middle away from it.
    below, above = (math.hypot(factor * side, off) for side in (middle - low, high - middle))
    return float(fitted - below), float(min(1.0, fitted + above))
