"""What is on record of each step, over the steps: speed, utilization, learning rate, and how experts share tokens out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.comparison import looks
from pipeline.report.curves import axis_label, smoothed, thinned
from pipeline.report.figures import GREY, LOOKS, Plot, blank, legend_above
from pipeline.report.methods import Method
from pipeline.report.recorded import RecordedRun


@dataclass(frozen=True)
class Series:
    """A value of each step."""

    name: str
    title: str
    label: str
    values: Callable[[RecordedRun], np.ndarray]
    noisy: bool
    """Whether a mean over some steps is shown."""


def _tokens_per_second(run: RecordedRun) -> np.ndarray:
    tokens, seconds = (np.array([record[key] for record in run.steps], dtype=float) for key in ("tokens", "seconds"))
    return np.diff(tokens, prepend=0.0) / seconds


def _recorded(key: str, scale: float = 1.0) -> Callable[[RecordedRun], np.ndarray]:
    """What stands under a key: absent where a run, or a model of it, has no such number, null where it is none."""
    return lambda run: scale * np.array([record.get(key) for record in run.steps], dtype=float)


_SERIES = (
    Series("tokens-per-second", "Speed", "tokens per second", _tokens_per_second, noisy=True),
    Series("mfu", "Model FLOPs utilization", "MFU (% of peak)", _recorded("mfu", 100), noisy=True),
    Series("learning-rate", "Learning rate", "learning rate", _recorded("lr"), noisy=False),
    Series("expert-load-max", "Most loaded expert of a layer", "load / mean load", _recorded("expert_load_max"), noisy=True),
    Series("expert-load-min", "Least loaded expert of a layer", "load / mean load", _recorded("expert_load_min"), noisy=True),
    Series(
        "expert-load-entropy",
        "Entropy of the experts' loads",
        "entropy (1: all alike)",
        _recorded("expert_load_entropy"),
        noisy=True,
    ),
    Series("router-aux-loss", "Load-balancing loss", "loss, without its weight", _recorded("router_aux_loss"), noisy=True),
)


def speed_figures(methods: Sequence[Method], baseline: Method | None) -> list[Plot]:
    """Return each series over the steps of each method's first run, where it is on record."""
    shown = {series: [method for method in methods if np.isfinite(series.values(method.runs[0])).any()] for series in _SERIES}
    return [_figure(series, known, methods, baseline) for series, known in shown.items() if known]


def _figure(series: Series, shown: list[Method], methods: Sequence[Method], baseline: Method | None) -> Plot:
    figure, axes = blank()
    styles, rows, told = looks(methods, baseline), [], []
    for method in shown:
        run = method.runs[0]
        steps, values = [record["step"] for record in run.steps], series.values(run)
        window = max(1, len(steps) // 80) if series.noisy else 1
        line, points = smoothed(values, window), thinned(len(steps), window)
        style = LOOKS[0] if len(methods) == 1 else styles[method.name]
        axes.plot([steps[point] for point in points], line[points], color=style.color, linestyle=style.dash, label=method.name)
        rows += [
            {"method": method.name, "run": str(run.path), "step": step, series.name: value}
            for step, value in zip(steps, values.tolist(), strict=True)
        ]
        told.append(f"{method.name}: {np.nanmedian(values):,.3g} in the median step")
    caption = f"{series.title} over the run" + (", smoothed over an eightieth of the steps." if series.noisy else ".")
    stages = shown[0].runs[0].stages
    if len(methods) > 1:
        legend_above(figure, axes)
        if any(len(method.runs) > 1 for method in shown):
            caption += " Of a method with several runs the first is shown."
    elif len(stages) > 1:
        for _, begin, _ in stages[1:]:
            axes.axvline(begin, color=GREY, linewidth=0.7)
        caption += " Vertical lines divide the stages."
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel(axis_label("steps", ""))
    axes.set_ylabel(series.label)
    return Plot(series.name, series.title, caption, figure, rows, f"{caption} {'; '.join(told)}.")
