"""Whether a suite's target lies on the frontier of loss for compute, without which savings flatter."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from pipeline.reproduction.final_losses import End, EndPoint
from pipeline.reproduction.results_page import paragraphs, signed
from pipeline.reproduction.suite import Suite

_CLEARLY = 0.1
"""Nats by which a target is to be better than its source's size at as many tokens, for growth to be worth a comparison."""

_AS_MUCH = 0.02
"""By what share of the baseline's compute a run may differ from it and count as one for the same compute."""

_SURE = 2.0
"""Standard errors over seeds by which a difference has to be from 0 before it counts as one."""


def frontier_parts(suite: Suite, ends: Mapping[str, Sequence[End]], against: Mapping[int, EndPoint]) -> list[list[str]]:
    """Return in words whether the target is worth its compute: against other sizes, and its source's on as many tokens.

    `ends` has each method's runs by its title, `against` where the baseline's ended, by seed.
    """
    target = suite.methods[suite.baseline].title
    found: list[list[str]] = []
    others: dict[str, list[float]] = {}
    for method in suite.methods.values():
        pairs = _pairs(ends.get(method.title, ()), against) if method.frontier else []
        if gaps := [point.loss - base.loss for point, base in pairs if abs(point.spent / base.spent - 1) <= _AS_MUCH]:
            others[method.title] = gaps
    if others:
        each = ", ".join(f"{name} {signed(fmean(gaps))}" for name, gaps in others.items())
        lowest = min(others.values(), key=fmean)
        sure = _SURE * stdev(lowest) / math.sqrt(len(lowest)) if len(lowest) > 1 else 0.0
        found.append(paragraphs("frontier", target, each, lowest, sure))
    for method in suite.methods.values():
        of_method = ends.get(method.title, ()) if method.source_size else ()
        tokens = {end.tokens for end in [*of_method, *ends.get(target, ())]}
        gaps = [point.loss - base.loss for point, base in _pairs(of_method, against)] if len(tokens) == 1 else []
        if gaps:
            found.append(paragraphs("source_size", method.title, fmean(gaps), _CLEARLY))
    return found


def _pairs(ends: Sequence[End], against: Mapping[int, EndPoint]) -> list[tuple[EndPoint, EndPoint]]:
    """Where runs ended, each with where the baseline's run of its seed did."""
    return [(end.point, against[end.seed]) for end in ends if end.point is not None and end.seed in against]
