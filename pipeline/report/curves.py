"""Loss curves of one run: held-out and training loss against what was spent."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from pipeline.report.figures import GREY, LOOKS, PALE, Plot, blank, legend_above, unit
from pipeline.report.recorded import QUANTITIES, RecordedRun

AXIS = {
    "flops": "executed compute",
    "tokens": "training tokens",
    "steps": "optimizer steps",
    "seconds": "time in training steps",
}
"""What stands below an axis of a quantity."""

_TITLES = {"flops": "Loss and compute", "tokens": "Loss and tokens", "steps": "Loss and steps", "seconds": "Loss and time"}
_TINTS = ("#f4f4f4", "#ffffff")
_LETTER = 0.017
"""The width of a letter as a share of the axes': below it a stage's name does not fit above its part."""


def axis_label(quantity: str, name: str) -> str:
    """Return the words below an axis in a unit."""
    return AXIS[quantity] + (f" ({name})" if name else "")


def loss_curves(run: RecordedRun) -> list[Plot]:
    """Return held-out and training loss of one run against each quantity; none where no step is on record."""
    if not run.steps:
        return []
    return [_loss_curve(run, quantity) for quantity in QUANTITIES]


def smoothed(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Return means over `window` values around each, fewer at the ends, leaving out those that are no numbers."""
    values = np.asarray(values, dtype=float)
    known = np.isfinite(values)
    ones = np.ones(window)
    sums = np.convolve(np.where(known, values, 0.0), ones, mode="full")
    counts = np.convolve(known.astype(float), ones, mode="full")
    begin = (window - 1) // 2
    part = slice(begin, begin + len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts[part] > 0, sums[part] / counts[part], np.nan)


def thinned(count: int, window: int) -> list[int]:
    """Return which of `count` means over `window` values are drawn: four a window, and the last.

    More show nothing else, and a page of a run of a million steps would not open.
    """
    return sorted({*range(0, count, max(1, window // 4)), count - 1})


def _loss_curve(run: RecordedRun, quantity: str) -> Plot:
    largest = run.spent(run.last_step)[quantity]
    name, scale = unit(quantity, largest)
    figure, axes = blank()

    def at(step: int) -> float:
        return run.spent(step)[quantity] / scale

    _shade_stages(axes, run, at, largest / scale)
    rows = []
    window = max(1, len(run.steps) // 80)
    lowest, label = [], "training loss" + (f", mean of {window} steps" if window > 1 else "")
    for stage, begin, end in run.stages:
        records = [record for record in run.steps if begin < record["step"] <= end]
        losses = np.array([np.nan if record["loss"] is None else record["loss"] for record in records])
        smooth = smoothed(losses, window)
        x = [at(record["step"]) for record in records]
        drawn = thinned(len(x), window)
        axes.plot([x[place] for place in drawn], smooth[drawn], color=PALE, linewidth=1.1, label=label)
        lowest += list(smooth[np.isfinite(smooth)])
        label = None
        rows += [
            {
                "kind": "training",
                "stage": stage,
                "step": record["step"],
                quantity: run.spent(record["step"])[quantity],
                "loss": value,
            }
            for record, value in zip(records, losses.tolist(), strict=True)
        ]
    evaluations = run.grown_evaluations if run.from_scratch else run.evaluations
    held_out = [record for record in evaluations if run.spent(record["step"]) is not None]
    style, label = LOOKS[0], "held-out loss"
    # A model's curve ends where it is grown: what stands there is another one.
    grown = [record["stage"] for record in run.growth_points]
    parts = [[]]
    for record in held_out:
        if record["stage"] in grown:
            parts.append([])
        parts[-1].append(record)
    for part in filter(None, parts):
        x, y = [at(record["step"]) for record in part], [record["loss"] for record in part]
        every = max(1, len(x) // 40)
        axes.plot(x, y, color=style.color, marker=style.marker, markevery=every, markersize=3.2, label=label)
        label = None
    points = run.growth_points
    if points:
        x, y = [at(record["step"]) for record in points], [record["loss"] for record in points]
        axes.plot(
            x,
            y,
            linestyle="",
            marker="D",
            markersize=6.5,
            color=LOOKS[1].color,
            markerfacecolor="white",
            label="right after growth",
        )
    rows += [
        {
            "kind": "held-out",
            "stage": record["stage"],
            "step": record["step"],
            quantity: run.spent(record["step"])[quantity],
            "loss": record["loss"],
        }
        for record in held_out
    ]
    cut = _limit(axes, [record["loss"] for record in held_out], lowest)
    skipped = [step for step in run.skipped if run.spent(step) is not None]
    if skipped:
        axes.plot(
            [at(step) for step in skipped],
            [0.02] * len(skipped),
            linestyle="",
            marker="|",
            markersize=9,
            color="#D55E00",
            transform=axes.get_xaxis_transform(),
            label="skipped step",
        )
    widen(axes, largest / scale)
    axes.set_xlabel(axis_label(quantity, name))
    axes.set_ylabel("loss (nats per scored token)")
    legend_above(figure, axes)
    stages = ", ".join(stage for stage, _, _ in run.stages)
    caption = f"Held-out and training loss against {AXIS[quantity]}. Stages, from left to right and shaded in turn: {stages}."
    if cut is not None:
        caption += f" Training losses above {cut:.2f} lie outside the figure."
    final = f" The last held-out loss is {held_out[-1]['loss']:.4f}." if held_out else " No held-out loss is on record."
    return Plot(f"loss-{quantity}", _TITLES[quantity], caption, figure, rows, caption + final)


def _shade_stages(axes: Axes, run: RecordedRun, at: Callable[[int], float], width: float) -> None:
    for number, (stage, begin, end) in enumerate(run.stages):
        left, right = at(begin), at(end)
        axes.axvspan(left, right, color=_TINTS[number % 2], zorder=0, linewidth=0)
        if number:
            axes.axvline(left, color=GREY, linewidth=0.7, zorder=0.5)
        if width and (right - left) / width > _LETTER * len(stage):
            axes.text(
                (left + right) / 2,
                1.01,
                stage,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                color=GREY,
                fontsize=8,
            )


def _limit(axes: Axes, held_out: list[float], training: list[float]) -> float | None:
    """Let the axis show all held-out losses and nearly all training ones, not their first fall; return where it cuts."""
    if not held_out and not training:
        return None
    high = max([*held_out, *([np.quantile(training, 0.95)] if training else [])])
    low = min([*held_out, *training])
    margin = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
    return high + margin if training and max(training) > high + margin else None


def widen(axes: Axes, largest: float) -> None:
    """Let an axis begin at 0 and end at the largest value, with room for markers that stand there."""
    axes.set_xlim(-0.02 * largest, 1.02 * largest) if largest else axes.set_xlim(0, 1)
