"""Losses against compute: every method's curve, and a mark where each of its runs ends."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from pipeline.report.figures import BASELINE, GREY, Plot, blank, legend_above, look
from pipeline.reproduction.final_losses import End, EndPoint

_PALE = 0.25
"""Of a curve beside the marks of its ends."""


def final_loss_plot(methods: Mapping[str, Sequence[End]], baseline: str) -> Plot | None:
    """Return the figure of the runs at one horizon; None where the baseline has not ended."""
    known = {name: [(end, end.point) for end in ends if end.point is not None] for name, ends in methods.items()}
    known = {name: ends for name, ends in known.items() if ends}
    if baseline not in known:
        return None
    cost, goal = (float(mean) for mean in np.mean([point for _, point in known[baseline]], axis=0))
    figure, axes = blank()
    axes.axhline(goal, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)))
    others = [name for name in known if name != baseline]
    rows: list[dict[str, Any]] = []
    for name, ends in known.items():
        style = BASELINE if name == baseline else look(others.index(name))
        here = [(point.spent, end.seed, end.run) for end, point in ends if end.run is not None]
        if here:
            spent, _, run = max((one for one in here if one[1] == here[0][1]), key=itemgetter(0))
            before = spent - run.spent(run.last_step)["flops"]
            curve = [((run.spent(one.step)["flops"] + before) / cost, one.loss) for one in run.evaluations]
            axes.plot(*zip(*curve, strict=True), color=style.color, linewidth=0.8, alpha=_PALE)
        by_length: dict[float | None, list[EndPoint]] = {}
        for end, point in ends:
            by_length.setdefault(end.task.length, []).append(EndPoint(point.spent / cost, point.loss))
        # Of a length that some seeds alone were run at, the mean would compare other seeds.
        seeds = len({end.seed for end, _ in ends})
        means = sorted(tuple(np.mean(same, axis=0)) for same in by_length.values() if len(same) == seeds)
        line = style.dash if len(means) > 1 else ""
        axes.plot(*zip(*means, strict=True), color=style.color, linestyle=line, marker=style.marker, markersize=6, label=name)
        points = [point for same in by_length.values() for point in same]
        axes.plot(*zip(*points, strict=True), color=style.color, linestyle="", marker=".", markersize=3)
        rows += [
            {
                "method": name,
                "run": end.task.name,
                "seed": end.seed,
                "flops": point.spent,
                "of_baseline": point.spent / cost,
                "loss": point.loss,
            }
            for end, point in ends
        ]
    losses = [row["loss"] for row in rows]
    spare = max(0.15 * (max(losses) - min(losses)), 0.02)
    axes.set_ylim(min(losses) - spare, max(losses) + 3 * spare)
    axes.set_xlim(0, 1.05 * max(row["of_baseline"] for row in rows))
    axes.set_xlabel(f"executed compute, everything counted ({baseline}: 1)")
    axes.set_ylabel("held-out loss (nats per scored token)")
    legend_above(figure, axes)
    caption = (
        "Held-out loss against compute, everything counted. A large mark is the mean of the ends of a method's runs of one "
        "length with all seeds, a dot the end of one run, and a pale curve the way to one of them: the rate falls in the end "
        f"alone, and only ends compare. The dashed line is {baseline}'s final loss, {goal:.4f}."
    )
    return Plot("ends", "Held-out loss at the ends of runs, against compute", caption, figure, rows)
