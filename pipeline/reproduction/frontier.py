"""Whether a suite's target lies on the frontier of loss for compute, without which savings flatter."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev

from pipeline.reproduction.ends import End
from pipeline.reproduction.suite import Suite

_CLEARLY = 0.1
"""Nats by which a target is to be better than its source's size at as many tokens, for growth to be worth a comparison."""

_AS_MUCH = 0.02
"""By what share of the baseline's compute a run may differ from it and count as one for the same compute."""

_SURE = 2.0
"""Standard errors over seeds by which a difference has to be from 0 before it counts as one."""


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
            gaps = _gaps(ends.get(method.title, ()), against, lambda end: abs(end.spent / cost[end.seed] - 1) <= _AS_MUCH)
            if gaps:
                others[method.title] = gaps
    if others:
        each = ", ".join(f"{name} {_signed(fmean(gaps))}" for name, gaps in others.items())
        found.append(
            [
                f"Fixed sizes for the same compute end above the target's loss by, in nats: {each}. "
                + _verdict(f"The target ({target})", list(others.values()))
            ]
        )
    for method in suite.methods.values():
        of_method = ends.get(method.title, ()) if method.source_size else ()
        tokens = {end.tokens for end in [*of_method, *against.values()]}
        gaps = _gaps(of_method, against, lambda end: True) if len(tokens) == 1 else []
        if gaps:
            gap = fmean(gaps)
            found.append(
                [
                    f"{method.title}, on as many tokens, ends {_signed(gap)} nats above the target: "
                    + ("the target is better by" if gap >= _CLEARLY else "**less** than")
                    + f" {_CLEARLY:g} nats"
                    + (" or more." if gap >= _CLEARLY else ", so that the target is hardly worth training here.")
                ]
            )
    return found


def _verdict(target: str, others: Sequence[Sequence[float]]) -> str:
    """Whether the target is on the frontier, by the gaps of each fixed size over seeds."""
    lowest = min(others, key=fmean)
    sure = _SURE * stdev(lowest) / math.sqrt(len(lowest)) if len(lowest) > 1 else 0.0
    seeds = "" if len(lowest) > 1 else ", by one seed"
    if fmean(lowest) > sure:
        return f"{target} is on the frontier here{seeds}: none of them ends as low."
    if fmean(lowest) >= -sure:
        return (
            f"Whether {target[0].lower()}{target[1:]} is on the frontier is not decided: the difference is within what seeds "
            "leave open, so that what growth saves has to be judged against the fixed size too."
        )
    return (
        f"{target} is **not** on the frontier here{seeds}: a fixed size ends lower for the same compute, so that what growth "
        "saves has to be judged against that one."
    )


def _gaps(ends: Sequence[End], against: Mapping[int, End], counts: Callable[[End], bool]) -> list[float]:
    known = [end for end in ends if end.seed in against and end.loss is not None and end.spent is not None]
    return [end.loss - against[end.seed].loss for end in known if counts(end)]


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
