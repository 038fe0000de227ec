"""Several methods in the same axes: their loss curves, and what each saved at which loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pipeline.report import prose
from pipeline.report.figures import GREY, Look, Plot, axis_label, blank, legend_above, look_of, unit, widen
from pipeline.report.methods import COMPUTE, COMPUTE_WITH_SOURCE, Method, View
from pipeline.report.savings import Curve, saved_at

_POINTS = 120
"""Of a mean over runs whose evaluations stand at different places."""

_CURVES = (COMPUTE, COMPUTE_WITH_SOURCE, View("tokens"), View("steps"), View("seconds"), View("seconds", with_source=True))
_NAMES = {"flops": "compute", "tokens": "tokens", "steps": "steps", "seconds": "time"}


def compared_curves(methods: Sequence[Method], baseline: Method | None) -> list[Plot]:
    """Return the held-out losses of methods against each quantity of which there is something to show."""
    return list(filter(None, (_curves(methods, baseline, view) for view in _CURVES)))


def saved_by_loss(methods: Sequence[Method], baseline: Method | None) -> list[Plot]:
    """Return what methods saved by the loss to reach, where there is something to show."""
    if baseline is None:
        return []
    return list(filter(None, (_saved(methods, baseline, view) for view in (COMPUTE, COMPUTE_WITH_SOURCE))))


def _curves(methods: Sequence[Method], baseline: Method | None, view: View) -> Plot | None:
    all_curves = [(method, method.curves(view, whole=True)) for method in methods]
    drawn = [(method, curves) for method, of in all_curves if (curves := [one for one in of if one.losses])]
    if not drawn:
        return None
    largest = max(curve.spent[-1] for _, curves in drawn for curve in curves)
    name, scale = unit(view.quantity, largest)
    figure, axes = blank()
    against = None if baseline is None else baseline.reference(view)
    if against is not None:
        axes.axhline(against.loss, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)))
    for method, curves in drawn:
        style = look_of(method, methods, baseline)
        _draw(axes, curves, style, scale, method.name)
        if against is not None and method is not baseline:
            reached = [curve.first_reached(against.loss) for curve in method.curves(view)]
            x = [spent / scale for spent in reached if spent is not None]
            axes.plot(x, [against.loss] * len(x), "o", color=style.color, ms=9, mfc="none", mew=1.4)
    rows = [
        {"method": method.name, "run": str(run.path), view.quantity: spent, "loss": loss}
        for method, curves in all_curves
        for run, curve in zip(method.runs, curves, strict=False)
        for spent, loss in zip(curve.spent, curve.losses, strict=True)
    ]
    widen(axes, largest / scale)
    cut = None if baseline is None or against is None else _cut(axes, baseline.settled.curves(view))
    axes.set(xlabel=axis_label(view.quantity, name), ylabel="held-out loss (nats per scored token)")
    legend_above(figure, axes)
    several = any(len(curves) > 1 for _, curves in drawn)
    caption = prose.text("comparison", "curves", _NAMES[view.quantity], view.counted, several, baseline, against, cut)
    title = f"Held-out loss against {_NAMES[view.quantity]}" + (", source included" if view.with_source else "")
    ends = [(method, np.mean([curve.losses[-1] for curve in curves])) for method, curves in drawn]
    spoken = f"{caption} {prose.text('comparison', 'curve_ends', ends)}"
    return Plot(f"compare-{view.name}", title, caption, figure, rows, spoken)


def _early_loss(baseline: Sequence[Curve]) -> float:
    """The baseline's loss at a tenth of its cost: above it untrained models differ."""
    return float(np.mean([np.interp(curve.spent[-1] / 10, curve.spent, curve.losses) for curve in baseline if curve.losses]))


def _cut(axes: Axes, baseline: Sequence[Curve]) -> float | None:
    """Leave out losses above the baseline's early one, and return that one, where they would fill the figure."""
    top = _early_loss(baseline)
    lowest, highest = axes.dataLim.intervaly
    if highest - lowest < 2 * (top - lowest):
        return None
    axes.set_ylim(lowest - 0.05 * (top - lowest), top)
    return top


def _draw(axes: Axes, curves: Sequence[Curve], style: Look, scale: float, label: str) -> None:
    begin, end = max(curve.spent[0] for curve in curves), min(curve.spent[-1] for curve in curves)
    if len(curves) > 1 and begin < end:
        grid = np.linspace(begin, end, _POINTS)
        losses = np.array([np.interp(grid, curve.spent, curve.losses) for curve in curves])
        _draw_mean(axes, grid / scale, losses, style, label)
        return
    for number, curve in enumerate(curves):
        every = max(1, len(curve.spent) // 8) if len(curves) == 1 else None
        label = "" if number else label
        axes.plot(np.array(curve.spent) / scale, curve.losses, markevery=every, label=label, **style.line)


def _draw_mean(axes: Axes, x: np.ndarray, values: np.ndarray, style: Look, label: str) -> None:
    """Draw the mean over runs of `values` [runs, points], in a band from the lowest to the highest where there are several."""
    if len(values) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=style.color, alpha=0.18, linewidth=0)
    axes.plot(x, values.mean(axis=0), markevery=_POINTS // 8, label=label, **style.line)


def _saved(methods: Sequence[Method], baseline: Method, view: View) -> Plot | None:
    bases = [curve for curve in baseline.settled.curves(view) if curve.losses]
    if not bases:
        return None
    easiest, hardest = _early_loss(bases), max(min(curve.losses) for curve in bases)
    targets = np.linspace(easiest, hardest, _POINTS)
    figure, axes = blank()
    rows: list[dict[str, Any]] = []
    lowest = 0.0
    for method in methods:
        if method is baseline:
            continue
        curves = [curve for curve in method.curves(view) if curve.losses]
        shares = {target: shares for target in targets.tolist() if (shares := saved_at(curves, bases, target))}
        if not shares:
            continue
        known = np.array(list(shares.values())).T
        _draw_mean(axes, np.array(list(shares)), 100 * known, look_of(method, methods, baseline), method.name)
        means = (100 * known.mean(axis=0)).tolist()
        lowest = min(lowest, *means)
        rows += [{"method": method.name, "loss": loss, "saved_percent": mean} for loss, mean in zip(shares, means, strict=True)]
    if not rows:
        return None
    axes.axhline(0, color=GREY, linewidth=0.9)
    axes.set_ylim(max(lowest * 1.1, -100) if lowest < 0 else -5, 105)
    axes.set_xlim(easiest, hardest)
    axes.set(xlabel="held-out loss to reach (lower is harder)", ylabel="executed compute saved (%)")
    legend_above(figure, axes)
    caption = prose.text("comparison", "saved_along", baseline, view.counted, view.with_source)
    title = "Compute saved by target loss" + (", source included" if view.with_source else "")
    return Plot(f"saved-{view.name}", title, caption, figure, rows)
