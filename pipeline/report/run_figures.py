"""Figures over one run: held-out and training loss against what was spent, and what is on record of each step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from pipeline.report import prose
from pipeline.report.figures import GREY, LOOKS, PALE, Plot, axis_label, blank, legend_above, look_of, unit, widen
from pipeline.report.methods import Method
from pipeline.report.recorded import QUANTITIES, HeldOut, RecordedRun

_TITLES = {"flops": "Loss and compute", "tokens": "Loss and tokens", "steps": "Loss and steps", "seconds": "Loss and time"}
_TINTS = ("#f4f4f4", "#ffffff")
_LETTER = 0.017
"""The width of a letter as a share of the axes': below it a stage's name does not fit above its part."""


def loss_curves(run: RecordedRun) -> list[Plot]:
    """Return held-out and training loss of one run against each quantity; none where no step is on record."""
    return [_loss_curve(run, quantity) for quantity in QUANTITIES] if run.steps else []


def _loss_curve(run: RecordedRun, quantity: str) -> Plot:
    largest = run.spent(run.last_step)[quantity]
    name, scale = unit(quantity, largest)
    figure, axes = blank()

    def at(step: int) -> float:
        return run.spent(step)[quantity] / scale

    def row(kind: str, stage: str, step: int, loss: float) -> dict[str, object]:
        return {"kind": kind, "stage": stage, "step": step, quantity: run.spent(step)[quantity], "loss": loss}

    _shade_stages(axes, run, at, largest / scale)
    rows, lowest = _training_loss(axes, run, at, row)
    held_out = run.on_record(run.grown_evaluations if run.from_scratch else run.evaluations)
    rows += [row("held-out", *record[1::-1], record.loss) for record in held_out]
    _held_out_loss(axes, run, held_out, at)
    cut = _limit(axes, [record.loss for record in held_out], lowest)
    if run.skipped:
        x, below = [at(step) for step in run.skipped], axes.get_xaxis_transform()
        axes.plot(x, [0.02] * len(x), "|", transform=below, ms=9, color=LOOKS[1].color, label="skipped step")
    widen(axes, largest / scale)
    axes.set(xlabel=axis_label(quantity, name), ylabel="loss (nats per scored token)")
    legend_above(figure, axes)
    stages = ", ".join(stage for stage, _, _ in run.stages)
    caption = prose.text("captions", "loss", axis_label(quantity, ""), stages, cut)
    last = prose.text("captions", "last_loss", held_out)
    return Plot(f"loss-{quantity}", _TITLES[quantity], caption, figure, rows, f"{caption} {last}")


def _training_loss(
    axes: Axes, run: RecordedRun, at: Callable[[int], float], row: Callable[..., dict[str, object]]
) -> tuple[list[dict[str, object]], list[float]]:
    """Draw training losses stage by stage; return their rows and the means that are numbers."""
    window = max(1, len(run.steps) // 80)
    rows: list[dict[str, object]] = []
    means: list[float] = []
    label = "training loss" + (f", mean of {window} steps" if window > 1 else "")
    for stage, begin, end in run.stages:
        records = [record for record in run.steps if begin < record["step"] <= end]
        losses = np.array([record["loss"] for record in records], dtype=float)
        smooth = smoothed(losses, window)
        drawn = thinned(len(records), window)
        x = [at(records[place]["step"]) for place in drawn]
        axes.plot(x, smooth[drawn], color=PALE, linewidth=1.1, label="" if rows else label)
        means += list(smooth[np.isfinite(smooth)])
        rows += [row("training", stage, record["step"], loss) for record, loss in zip(records, losses.tolist(), strict=True)]
    return rows, means


def _held_out_loss(axes: Axes, run: RecordedRun, held_out: Sequence[HeldOut], at: Callable[[int], float]) -> None:
    """Draw held-out losses; a model's curve ends where it is grown, since another one begins there."""
    grown = [record.stage for record in run.growth_points]
    begins = [place for place, record in enumerate(held_out) if record.stage in grown]
    curves = [held_out[begin:end] for begin, end in zip([0, *begins], [*begins, None], strict=True)]
    for number, curve in enumerate(filter(None, curves)):
        x, y = [at(record.step) for record in curve], [record.loss for record in curve]
        label = "" if number else "held-out loss"
        axes.plot(x, y, markevery=max(1, len(x) // 40), label=label, ms=3.2, **LOOKS[0].line)
    if points := run.growth_points:
        x, y = [at(record.step) for record in points], [record.loss for record in points]
        axes.plot(x, y, "D", ms=6.5, color=LOOKS[1].color, mfc="white", label="right after growth")


def _shade_stages(axes: Axes, run: RecordedRun, at: Callable[[int], float], width: float) -> None:
    for number, (stage, begin, end) in enumerate(run.stages):
        left, right = at(begin), at(end)
        axes.axvspan(left, right, color=_TINTS[number % 2], zorder=0, linewidth=0)
        if number:
            axes.axvline(left, color=GREY, linewidth=0.7, zorder=0.5)
        if width and (right - left) / width > _LETTER * len(stage):
            above = axes.get_xaxis_transform()
            axes.text((left + right) / 2, 1.01, stage, transform=above, ha="center", va="bottom", color=GREY, fontsize=8)


def _limit(axes: Axes, held_out: list[float], training: list[float]) -> float | None:
    """Let the axis show all held-out losses and nearly all training ones, not their first fall; return where it cuts."""
    if not held_out and not training:
        return None
    nearly_all = [float(np.quantile(training, 0.95))] if training else []
    high, low = max(held_out + nearly_all), min(held_out + training)
    margin = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
    return high + margin if training and max(training) > high + margin else None


@dataclass(frozen=True)
class Series:
    """A value of each step."""

    name: str
    title: str
    label: str
    key: str
    """Under which it stands in metrics.jsonl: absent where a run, or a model of it, has none, null where it is no number."""
    scale: float = 1.0
    noisy: bool = True
    """Whether a mean over some steps is shown."""

    def of(self, run: RecordedRun) -> np.ndarray:
        """Return the value of each of a run's steps."""
        if self.key != "tokens":
            return self.scale * np.array([record.get(self.key) for record in run.steps], dtype=float)
        tokens, seconds = (
            np.array([(record["tokens"], record["seconds"]) for record in run.steps], dtype=float).reshape(-1, 2).T
        )
        return np.diff(tokens, prepend=0.0) / seconds


_SERIES = (
    Series("tokens-per-second", "Speed", "tokens per second", "tokens"),
    Series("mfu", "Model FLOPs utilization", "MFU (% of peak)", "mfu", 100),
    Series("learning-rate", "Learning rate", "learning rate", "lr", noisy=False),
    Series("expert-load-max", "Most loaded expert of a layer", "load / mean load", "expert_load_max"),
    Series("expert-load-min", "Least loaded expert of a layer", "load / mean load", "expert_load_min"),
    Series("expert-load-entropy", "Entropy of the experts' loads", "entropy (1: all alike)", "expert_load_entropy"),
    Series("router-aux-loss", "Load-balancing loss", "loss, without its weight", "router_aux_loss"),
)


def step_figures(methods: Sequence[Method], baseline: Method | None) -> list[Plot]:
    """Return each series over the steps of each method's first run, where it is on record."""
    shown = {series: [method for method in methods if np.isfinite(series.of(method.runs[0])).any()] for series in _SERIES}
    return [_step_figure(series, known, methods, baseline) for series, known in shown.items() if known]


def _step_figure(series: Series, shown: list[Method], methods: Sequence[Method], baseline: Method | None) -> Plot:
    figure, axes = blank()
    rows, medians = [], []
    for method in shown:
        run = method.runs[0]
        steps, values = [record["step"] for record in run.steps], series.of(run)
        window = max(1, len(steps) // 80) if series.noisy else 1
        line, points = smoothed(values, window), thinned(len(steps), window)
        style = LOOKS[0] if len(methods) == 1 else look_of(method, methods, baseline)
        axes.plot([steps[point] for point in points], line[points], color=style.color, linestyle=style.dash, label=method.name)
        rows += [
            {"method": method.name, "run": str(run.path), "step": step, series.name: value}
            for step, value in zip(steps, values.tolist(), strict=True)
        ]
        medians.append((method.name, f"{np.nanmedian(values):,.3g}"))
    stages = shown[0].runs[0].stages
    if len(methods) > 1:
        legend_above(figure, axes)
    else:
        for _, begin, _ in stages[1:]:
            axes.axvline(begin, color=GREY, linewidth=0.7)
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set(xlabel=axis_label("steps", ""), ylabel=series.label)
    caption = prose.text("captions", "steps", series, methods, shown, stages)
    return Plot(series.name, series.title, caption, figure, rows, f"{caption} {prose.text('captions', 'medians', medians)}")


def smoothed(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Return means over `window` values around each, fewer at the ends, leaving out those that are not numbers."""
    values = np.asarray(values, dtype=float)
    known = np.isfinite(values)
    begin = (window - 1) // 2
    sums, counts = (
        np.convolve(one, np.ones(window))[begin : begin + len(values)] for one in (np.where(known, values, 0.0), known)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, np.nan)


def thinned(count: int, window: int) -> list[int]:
    """Return which of `count` means over `window` values are drawn: four a window, and the last.

    More show nothing else, and a page of a run of a million steps would not open.
    """
    return sorted({*range(0, count, max(1, window // 4)), count - 1})
