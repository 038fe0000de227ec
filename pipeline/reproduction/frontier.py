"""Whether a suite's target lies on the frontier of loss for compute, without which savings flatter."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.reproduction.ends import End
from pipeline.reproduction.suite import Suite

_CLEARLY = 0.1
"""Nats by which a target is to be better than its source's size at as many tokens, for growth to be worth a comparison."""

_AS_MUCH = 1.02
"""Compute up to which a run counts as one for the baseline's."""


def frontier_parts(suite: Suite, ends: Mapping[str, Sequence[End]], against: Mapping[int, End]) -> list[list[str]]:
    """Return in words whether the target is worth its compute: against other sizes, and its source's on as many tokens.

    `ends` has each method's runs by its title, `against` the baseline's by seed.
    """
    target = suite.methods[suite.baseline].title
    found = []
    cost = {seed: end.spent for seed, end in against.items()}
    others = {}
    for method in suite.methods.values():
        if method.frontier:
            gaps = _gaps(ends.get(method.title, ()), against, lambda end: end.spent <= _AS_MUCH * cost[end.seed])
            if gaps:
                others[method.title] = gaps
    if others:
        each = ", ".join(f"{name} {_signed(float(np.mean(gaps)))}" for name, gaps in others.items())
        on = all(np.mean(gaps) > 0 for gaps in others.values())
        found.append(
            [
                f"Fixed sizes for the same compute end above the target's loss by, in nats: {each}. The target ({target}) "
                + (
                    "is on the frontier here: none of them ends as low."
                    if on
                    else "is **not** on the frontier here: a fixed size is as good for the same compute, so that what growth "
                    "saves has to be judged against that one."
                )
            ]
        )
    for method in suite.methods.values():
        of_method = ends.get(method.title, ()) if method.source_size else ()
        tokens = {end.tokens for end in [*of_method, *against.values()]}
        gaps = _gaps(of_method, against, lambda end: True) if len(tokens) == 1 else []
        if gaps:
            gap = float(np.mean(gaps))
            found.append(
                [
                    f"{method.title}, on as many tokens, ends {_signed(gap)} nats above the target: "
                    + ("the target is better by" if gap >= _CLEARLY else "**less** than")
                    + f" {_CLEARLY:g} nats"
                    + (" or more." if gap >= _CLEARLY else ", so that the target is hardly worth training here.")
                ]
            )
    return found


def _gaps(ends: Sequence[End], against: Mapping[int, End], counts: Callable[[End], bool]) -> list[float]:
    known = [end for end in ends if end.seed in against and end.loss is not None and end.spent is not None]
    return [end.loss - against[end.seed].loss for end in known if counts(end)]


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
