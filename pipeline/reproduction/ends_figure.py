"""Losses against compute: every method's curve, and a mark where each of its runs ends."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.report.figures import BASELINE, GREY, Plot, blank, legend_above, look
from pipeline.reproduction.ends import End

_PALE = 0.25
"""Of a curve beside the marks of its ends."""


def ends_plot(methods: Mapping[str, Sequence[End]], baseline: str) -> Plot | None:
    """Return the figure of the runs at one horizon; None where the baseline has not ended."""
    known = {name: [end for end in ends if end.spent is not None and end.loss is not None] for name, ends in methods.items()}
    known = {name: ends for name, ends in known.items() if ends}
    if baseline not in known:
        return None
    cost, goal = (float(np.mean([getattr(end, of) for end in known[baseline]])) for of in ("spent", "loss"))
    figure, axes = blank()
    axes.axhline(goal, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)))
    others = [name for name in known if name != baseline]
    rows: list[dict[str, Any]] = []
    for name, ends in known.items():
        style = BASELINE if name == baseline else look(others.index(name))
        here = [end for end in ends if end.run is not None]
        if here:
            first = max((end for end in here if end.seed == here[0].seed), key=lambda end: end.spent)
            before = first.spent - first.run.spent(first.run.last_step)["flops"]
            curve = [((first.run.spent(one.step)["flops"] + before) / cost, one.loss) for one in first.run.evaluations]
            axes.plot(*zip(*curve, strict=True), color=style.color, linewidth=0.8, alpha=_PALE)
        by_length = {end.task.length: [other for other in ends if other.task.length == end.task.length] for end in ends}
        # Of a length that some seeds alone were run at, the mean would compare other seeds.
        seeds = len({end.seed for end in ends})
        means = sorted(
            (np.mean([e.spent for e in same]) / cost, np.mean([e.loss for e in same]))
            for same in by_length.values()
            if len(same) == seeds
        )
        line = style.dash if len(means) > 1 else ""
        axes.plot(*zip(*means, strict=True), color=style.color, linestyle=line, marker=style.marker, markersize=6, label=name)
        axes.plot(
            [e.spent / cost for e in ends], [e.loss for e in ends], color=style.color, linestyle="", marker=".", markersize=3
        )
        rows += [
            {
                "method": name,
                "run": e.task.name,
                "seed": e.seed,
                "flops": e.spent,
                "of_baseline": e.spent / cost,
                "loss": e.loss,
            }
            for e in ends
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
