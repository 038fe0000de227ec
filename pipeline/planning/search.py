"""Schedules of sizes, each as long as it takes to reach the target's loss, by what they cost."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.planning.law import Phase, Training
from pipeline.planning.predictions import Predictor, Row
from pipeline.planning.schedules import Kind, Question, Schedule, Size

_LAST = (0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the tokens that the target itself is trained on."""
_FIRST = (0.25, 0.5, 0.75)
"""Shares of the others that the first of two smaller sizes is trained on; three share them equally."""
_BETWEEN = 2
"""Sizes between the first and the target, at most."""
_AFTER = 0.05
"""The share of a run's tokens, at least, that lies between its last growth and the decay of the learning rate."""
_HALVINGS = 20
"""Of what is between the shortest and the longest: to a part in 100,000."""
_LONGEST = 8.0
"""A schedule may take so many times the tokens of scratch."""


@dataclass(frozen=True)
class Search:
    """The schedules for the question of a predictor."""

    predictor: Predictor
    kinds: Sequence[Kind]

    @property
    def question(self) -> Question:
        """What is asked."""
        return self.predictor.question

    def fixed(self) -> list[Row]:
        """The smaller sizes, each trained alone for as long as it takes to reach the goal: what the target has to beat."""
        found = [self._reaching((size,), (1.0,), ()) for size in self.question.smaller]
        return sorted((self.predictor.row(one) for one in found if one is not None), key=lambda row: row.schedule.flops)

    def grown(self) -> list[Row]:
        """The best schedule of each chain of sizes and each way to grow, the best of all first.

        Best by the lower end of the interval: of many guesses the best is by chance too good, and most where least is known.
        """
        best: list[Row] = []
        for sizes, kinds in self._chains():
            reaching = (self._reaching(sizes, shares, kinds) for shares in self._shares(len(sizes)))
            rows = [self.predictor.row(one) for one in reaching if one is not None]
            best += sorted(rows, key=_order)[:1]
        return sorted(best, key=_order)

    def _chains(self) -> Iterator[tuple[tuple[Size, ...], tuple[Kind, ...]]]:
        """Sizes that follow each other, and the kinds of the growths between them; one kind for each axis."""
        target, given = self.question.target, self.question.given
        starts = [(first,) for first in self.question.smaller] if given is None else [(given.size,)]
        for start in starts:
            between = (itertools.combinations(self.question.smaller, count) for count in range(_BETWEEN + 1))
            for middle in itertools.chain.from_iterable(between):
                sizes = (*start, *middle, target)
                axes = [_axis(small, large) for small, large in itertools.pairwise(sizes)]
                if None in axes:
                    continue
                choices = {axis: [kind for kind in self.kinds if kind.axis == axis] for axis in dict.fromkeys(axes)}
                for chosen in itertools.product(*choices.values()):
                    by_axis = dict(zip(choices, chosen, strict=True))
                    first, *others = (by_axis[axis] for axis in axes)
                    if given is not None:
                        # Its own schedule is over.
                        first = replace(first, traits=(*first.traits, "schedule anew"))
                    yield sizes, (first, *others)

    def _shares(self, sizes: int) -> Iterator[tuple[float, ...]]:
        for last in _LAST:
            if last < self.question.decay + _AFTER:
                continue
            if sizes == 3:
                yield from (((1 - last) * first, (1 - last) * (1 - first), last) for first in _FIRST)
            else:
                yield (*[(1 - last) / (sizes - 1)] * (sizes - 1), last)
        if self.question.given is not None:
            # Grown at once.
            between = sizes - 2
            for last in (0.4, 0.6, 0.8) if between else (1.0,):
                yield (0.0, *([(1 - last) / between] * between if between else []), last)

    def _reaching(self, sizes: tuple[Size, ...], shares: tuple[float, ...], kinds: tuple[Kind, ...]) -> Schedule | None:
        """The schedule of such shares that is just long enough to reach the goal; None where none is."""
        question, goal = self.question, self.predictor.goal
        given = question.given if kinds else None
        before = given.tokens if given else 0
        parameters = [size.parameters for size in sizes]
        traits = question.traits(kinds)

        def loss(tokens: float) -> float:
            each = [share * tokens for share in shares]
            each[0] = max(1.0, each[0] + before)
            return self.predictor.law.loss(Training(question.setting, tuple(map(Phase, parameters, each)), traits))

        low, high = math.log(question.tokens / 1e3), math.log(question.tokens * _LONGEST)
        if loss(math.exp(high)) > goal:
            return None
        least = self.predictor.least if kinds and not given else 0.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if loss(math.exp(middle)) <= goal else (middle, high)
        if shares[0] * math.exp(high) < least:
            return None
        steps = tuple(round(share * math.exp(high) / question.step_tokens) for share in shares)
        return Schedule(sizes, (steps[0], *(max(1, each) for each in steps[1:])), kinds, given)


def _order(row: Row) -> tuple[float, int]:
    return -row.interval[0], row.schedule.flops


def _axis(small: Size, large: Size) -> str | None:
    """What a growth from one size to another changes; None where it changes both axes or none, or makes anything smaller."""
    changed = large.beyond(small)
    if small.name == large.name or any(value < small.sizes[key] for key, value in changed.items()):
        return None
    if set(changed) == {"num_hidden_layers"}:
        return "depth"
    return None if "num_hidden_layers" in changed else "width"
