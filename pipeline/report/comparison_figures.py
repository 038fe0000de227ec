"""Several methods in the same axes: their loss curves, and what each saved at which loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pipeline.report import prose
from pipeline.report.comparison import COMPUTE, COMPUTE_WITH_SOURCE, View
from pipeline.report.figures import GREY, Look, Plot, axis_label, blank, legend_above, look_of, unit, widen
from pipeline.report.methods import Method
from pipeline.report.savings import Curve, Reference, saved_at

_POINTS = 120
"""Of a mean over runs whose evaluations stand at different places."""

_CURVES = (COMPUTE, COMPUTE_WITH_SOURCE, *(View(name, False) for name in ("tokens", "steps", "seconds")), View("seconds", True))
_NAMES = {"flops": "compute", "tokens": "tokens", "steps": "steps", "seconds": "time"}


def compared_curves(methods: Sequence[Method], baseline: Method | None) -> list[Plot]:
    """Return the held-out losses of methods against each quantity of which there is something to show."""
    return [plot for view in _CURVES if (plot := _curves(methods, baseline, view)) is not None]


def saved_by_loss(methods: Sequence[Method], baseline: Method | None) -> list[Plot]:
    """Return what methods saved by the loss to reach, where there is something to show."""
    if baseline is None:
        return []
    return [plot for view in (COMPUTE, COMPUTE_WITH_SOURCE) if (plot := _saved(methods, baseline, view)) is not None]


def _curves(methods: Sequence[Method], baseline: Method | None, view: View) -> Plot | None:
    all_curves = [method.curves(view.quantity, with_source=view.with_source, whole=True) for method in methods]
    drawn = [(method, [one for one in of if one.losses]) for method, of in zip(methods, all_curves, strict=True)]
    drawn = [(method, curves) for method, curves in drawn if curves]
    if not drawn:
        return None
    largest = max(curve.spent[-1] for _, curves in drawn for curve in curves)
    name, scale = unit(view.quantity, largest)
    figure, axes = blank()
    against = None if baseline is None else baseline.reference(view.quantity, with_source=view.with_source)
    if against is not None:
        axes.axhline(against.loss, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)))
    for method, curves in drawn:
        style = look_of(method, methods, baseline)
        _draw(axes, curves, style, scale, method.name)
        if against is not None and method is not baseline:
            _mark_crossings(axes, method, view, against, style, scale)
    rows = [
        {"method": method.name, "run": str(run.path), view.quantity: spent, "loss": loss}
        for method, curves in zip(methods, all_curves, strict=True)
        for run, curve in zip(method.runs, curves, strict=False)
        for spent, loss in zip(curve.spent, curve.losses, strict=True)
    ]
    widen(axes, largest / scale)
    cut = None
    if baseline is not None and against is not None:
        cut = _cut(axes, baseline.settled.curves(view.quantity, with_source=view.with_source))
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
    kind: dict[str, Any] = {"color": style.color, "linestyle": style.dash, "marker": style.marker}
    begin, end = max(curve.spent[0] for curve in curves), min(curve.spent[-1] for curve in curves)
    if len(curves) == 1 or begin >= end:
        for number, curve in enumerate(curves):
            every = max(1, len(curve.spent) // 8) if len(curves) == 1 else None
            axes.plot(np.array(curve.spent) / scale, curve.losses, markevery=every, label="" if number else label, **kind)
        return
    grid = np.linspace(begin, end, _POINTS)
    _draw_mean(axes, grid / scale, np.array([np.interp(grid, curve.spent, curve.losses) for curve in curves]), style, label)


def _draw_mean(axes: Axes, x: np.ndarray, values: np.ndarray, style: Look, label: str) -> None:
    """Draw the mean over runs of `values` [runs, points], in a band from the lowest to the highest where there are several."""
    if len(values) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=style.color, alpha=0.18, linewidth=0)
    kind: dict[str, Any] = {"color": style.color, "linestyle": style.dash, "marker": style.marker}
    axes.plot(x, values.mean(axis=0), markevery=_POINTS // 8, label=label, **kind)


def _mark_crossings(axes: Axes, method: Method, view: View, against: Reference, style: Look, scale: float) -> None:
    reached = [curve.first_reached(against.loss) for curve in method.curves(view.quantity, with_source=view.with_source)]
    x = [spent / scale for spent in reached if spent is not None]
    ring: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.4}
    axes.plot(x, [against.loss] * len(x), color=style.color, **ring)


def _saved(methods: Sequence[Method], baseline: Method, view: View) -> Plot | None:
    bases = [curve for curve in baseline.settled.curves(view.quantity, with_source=view.with_source) if curve.losses]
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
        curves = [curve for curve in method.curves(view.quantity, with_source=view.with_source) if curve.losses]
        shares = [saved_at(curves, bases, float(target)) for target in targets]
        x = targets[[bool(one) for one in shares]]
        if not len(x):
            continue
        known = np.array([one for one in shares if one]).T
        _draw_mean(axes, x, 100 * known, look_of(method, methods, baseline), method.name)
        mean = 100 * known.mean(axis=0)
        lowest = min(lowest, float(mean.min()))
        rows += [
            {"method": method.name, "loss": loss, "saved_percent": value}
            for loss, value in zip(x.tolist(), mean.tolist(), strict=True)
        ]
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
