"""Several methods in the same axes: their loss curves, and what each saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pipeline.report.curves import axis_label, widen
from pipeline.report.figures import BASELINE, GREY, Look, Plot, blank, legend_above, look, unit
from pipeline.report.methods import Method
from pipeline.report.savings import Curve, Reference, Saving, saved_at, saving

_POINTS = 120
"""Of a mean over runs whose evaluations stand at different places."""


@dataclass(frozen=True)
class View:
    """One way of counting what was spent."""

    quantity: str
    with_source: bool

    @property
    def name(self) -> str:
        """Its name in files."""
        return f"{self.quantity}-with-source" if self.with_source else self.quantity

    @property
    def words(self) -> str:
        """What it counts, in words."""
        return "with the source's own training" if self.with_source else "from the growth on"


VIEWS = (
    View("flops", False),
    View("flops", True),
    View("tokens", False),
    View("steps", False),
    View("seconds", False),
    View("seconds", True),
)
"""Those that are drawn."""

_TITLES = {"flops": "compute", "tokens": "tokens", "steps": "steps", "seconds": "time"}


def looks(methods: Sequence[Method], baseline: Method | None) -> dict[str, Look]:
    """Return each method's look, the baseline in grey."""
    others = [method.name for method in methods if method is not baseline]
    return {method.name: BASELINE if method is baseline else look(others.index(method.name)) for method in methods}


def compared(methods: Sequence[Method], baseline: Method | None) -> list[Plot]:
    """Return the figures of a comparison; those of which there is nothing to show are left out."""
    plots = [_curves(methods, baseline, view) for view in VIEWS]
    if baseline is not None:
        plots += [_saved_along(methods, baseline, view) for view in VIEWS[:2]]
    return [plot for plot in plots if plot is not None]


def savings(methods: Sequence[Method], baseline: Method, view: View) -> dict[str, Saving | None]:
    """Return each other method's saving; None where its cost is not known."""
    against = baseline.reference(view.quantity, with_source=view.with_source)
    found: dict[str, Saving | None] = {}
    for method in methods:
        if method is not baseline:
            curves = method.curves(view.quantity, with_source=view.with_source)
            found[method.name] = None if against is None or not curves else saving(curves, against)
    return found


def _curves(methods: Sequence[Method], baseline: Method | None, view: View) -> Plot | None:
    drawn = [
        (method, [curve for curve in method.curves(view.quantity, with_source=view.with_source, whole=True) if curve.losses])
        for method in methods
    ]
    drawn = [(method, curves) for method, curves in drawn if curves]
    if not drawn:
        return None
    name, scale = unit(view.quantity, max(curve.spent[-1] for _, curves in drawn for curve in curves))
    figure, axes = blank()
    rows: list[dict[str, Any]] = []
    against = None if baseline is None else baseline.reference(view.quantity, with_source=view.with_source)
    if against is not None:
        axes.axhline(against.loss, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)))
    styles, several = looks(methods, baseline), False
    for method, curves in drawn:
        several |= len(curves) > 1
        _draw(axes, curves, styles[method.name], scale, method.name)
        rows += [
            {"method": method.name, "run": str(run.path), view.quantity: spent, "loss": loss}
            for run, curve in zip(
                method.runs, method.curves(view.quantity, with_source=view.with_source, whole=True), strict=True
            )
            for spent, loss in zip(curve.spent, curve.losses, strict=True)
        ]
        if against is not None and method is not baseline:
            _mark_crossings(axes, method, view, against, styles[method.name], scale)
    widen(axes, max(curve.spent[-1] for _, curves in drawn for curve in curves) / scale)
    cut = None if against is None else _cut(axes, baseline.settled.curves(view.quantity, with_source=view.with_source))
    axes.set_xlabel(axis_label(view.quantity, name))
    axes.set_ylabel("held-out loss (nats per scored token)")
    legend_above(figure, axes)
    caption = f"Held-out loss of each method against {_TITLES[view.quantity]}, counted {view.words}."
    if several:
        caption += (
            " Of several seeds the line is the mean, as far as all of them have come, and the band goes from the lowest to "
            "the highest."
        )
    if against is not None:
        caption += (
            f" The dashed line is {baseline.name}'s final loss, {against.loss:.4f}; a ring marks where a run first reaches it."
        )
    if cut is not None:
        caption += f" Losses above {cut:.2f}, which untrained models have, lie outside the figure."
    title = f"Held-out loss against {_TITLES[view.quantity]}" + (", source included" if view.with_source else "")
    return Plot(f"compare-{view.name}", title, caption, figure, rows, _spoken(drawn, caption))


def _early_loss(baseline: list[Curve]) -> float:
    """The baseline's loss at a tenth of its cost: above it untrained models differ."""
    return float(np.mean([np.interp(curve.spent[-1] / 10, curve.spent, curve.losses) for curve in baseline if curve.losses]))


def _cut(axes: Axes, baseline: list[Curve]) -> float | None:
    """Leave out losses above the baseline's early one, and return that one, where they would fill the figure."""
    top = _early_loss(baseline)
    lowest, highest = axes.dataLim.intervaly
    if highest - lowest < 2 * (top - lowest):
        return None
    axes.set_ylim(lowest - 0.05 * (top - lowest), top)
    return top


def _draw(axes: Axes, curves: list[Curve], style: Look, scale: float, label: str) -> None:
    kind = {"color": style.color, "linestyle": style.dash, "label": label}
    if len(curves) == 1:
        x = [spent / scale for spent in curves[0].spent]
        every = max(1, len(x) // 8)
        axes.plot(x, curves[0].losses, marker=style.marker, markevery=every, **kind)
        return
    begin, end = max(curve.spent[0] for curve in curves), min(curve.spent[-1] for curve in curves)
    if begin >= end:
        for curve in curves:
            axes.plot([spent / scale for spent in curve.spent], curve.losses, marker=style.marker, **kind)
            kind["label"] = None
        return
    grid = np.linspace(begin, end, _POINTS)
    losses = np.array([np.interp(grid, curve.spent, curve.losses) for curve in curves])
    axes.fill_between(grid / scale, losses.min(axis=0), losses.max(axis=0), color=style.color, alpha=0.18, linewidth=0)
    axes.plot(grid / scale, losses.mean(axis=0), marker=style.marker, markevery=_POINTS // 8, **kind)


def _mark_crossings(axes: Axes, method: Method, view: View, against: Reference, style: Look, scale: float) -> None:
    reached = [curve.first_reached(against.loss) for curve in method.curves(view.quantity, with_source=view.with_source)]
    x = [spent / scale for spent in reached if spent is not None]
    axes.plot(
        x,
        [against.loss] * len(x),
        linestyle="",
        marker="o",
        markersize=9,
        markerfacecolor="none",
        markeredgewidth=1.4,
        color=style.color,
    )


def _saved_along(methods: Sequence[Method], baseline: Method, view: View) -> Plot | None:
    bases = [curve for curve in baseline.settled.curves(view.quantity, with_source=view.with_source) if curve.losses]
    if not bases:
        return None
    easiest, hardest = _early_loss(bases), max(min(curve.losses) for curve in bases)
    targets = np.linspace(easiest, hardest, _POINTS)
    figure, axes = blank()
    styles, rows, lowest = looks(methods, baseline), [], 0.0
    for method in methods:
        if method is baseline:
            continue
        curves = [curve for curve in method.curves(view.quantity, with_source=view.with_source) if curve.losses]
        shares = [saved_at(curves, bases, target) for target in targets]
        known = [number for number, one in enumerate(shares) if one]
        if not known:
            continue
        style, x = styles[method.name], targets[known]
        mean = np.array([100 * np.mean(shares[number]) for number in known])
        if len(curves) > 1:
            low, high = ([100 * f(shares[number]) for number in known] for f in (min, max))
            axes.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)
        axes.plot(
            x, mean, color=style.color, linestyle=style.dash, marker=style.marker, markevery=_POINTS // 8, label=method.name
        )
        lowest = min(lowest, mean.min())
        rows += [
            {"method": method.name, "loss": float(loss), "saved_percent": float(value)}
            for loss, value in zip(x, mean, strict=True)
        ]
    if not rows:
        return None
    axes.axhline(0, color=GREY, linewidth=0.9)
    axes.set_ylim(max(lowest * 1.1, -100) if lowest < 0 else -5, 105)
    axes.set_xlim(easiest, hardest)
    axes.set_xlabel("held-out loss to reach (lower is harder)")
    axes.set_ylabel("executed compute saved (%)")
    legend_above(figure, axes)
    caption = (
        f"Compute saved against {baseline.name} by the time each held-out loss is first reached, counted {view.words}. "
        "The right "
        f"end is the lowest loss that {baseline.name} reached; a line ends before it where not all of a method's runs got "
        "so far."
    )
    caption += (
        " What the grown model can do from the start costs nothing: 100 %."
        if not view.with_source
        else " Below 0 the grown model cost more; where it cost more than twice as much lies outside the figure."
    )
    title = "Compute saved by target loss" + (", source included" if view.with_source else "")
    return Plot(f"saved-{view.name}", title, caption, figure, rows)


def _spoken(drawn: list[tuple[Method, list[Curve]]], caption: str) -> str:
    ends = "; ".join(
        f"{method.name} {method.is_at} {np.mean([curve.losses[-1] for curve in curves]):.4f}" for method, curves in drawn
    )
    return f"{caption} {ends}."
