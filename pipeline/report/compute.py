"""Where the compute went: FLOPs by stage and part."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pipeline.flops.counts import PARTS
from pipeline.recipe import SOURCE_STAGE
from pipeline.report.figures import LOOKS, SIZE, Look, Plot, amount, blank, legend_above, unit
from pipeline.report.methods import Method
from pipeline.report.recorded import RecordedRun

_WASTE = "taken again"


def part_name(part: str) -> str:
    """Return a part of the model in words."""
    return "FFN" if part == "ffn" else part.replace("_", " ")


def stage_rows(run: RecordedRun) -> list[dict[str, Any]]:
    """Return what each stage cost, then each given source, then what was lost; numbers are None where they are not known.

    By part where the ledger counts as many steps as are on record, else by stage alone.
    """
    by_part = run.ledger is not None and run.ledger_step == run.last_step
    rows: list[dict[str, Any]] = []
    for stage, begin, end in run.stages:
        records = [record for record in run.steps if begin < record["step"] <= end]
        row: dict[str, Any] = {"stage": stage, "kind": "source" if stage == SOURCE_STAGE else "stage", "steps": end - begin}
        row["tokens"] = run.spent(end)["tokens"] - run.spent(begin)["tokens"]
        row["seconds"] = run.spent(end)["seconds"] - run.spent(begin)["seconds"]
        for kind in ("model", "executed"):
            row[kind] = sum(record[f"flops_{kind}"] for record in records)
            parts = getattr(run.ledger.stages[stage], kind) if by_part and stage in run.ledger.stages else {}
            row |= {f"{kind}_{part}": parts.get(part) for part in PARTS}
        rows.append(row)
    for origin, line in ({} if run.ledger is None else run.ledger.inherited).items():
        least = ", at least" if line.spent and not line.complete else ""
        row = {"stage": f"pre-training of {origin}{least}", "kind": "inherited", "steps": None, "tokens": None, "seconds": None}
        for kind in ("model", "executed"):
            parts = getattr(line.flops, kind) if line.complete or line.spent else {}
            row[kind] = sum(parts.values()) if parts else None
            row |= {f"{kind}_{part}": parts.get(part) for part in PARTS}
        rows.append(row)
    if run.wasted or run.inherited_waste:
        empty = {f"{kind}_{part}": None for kind in ("model", "executed") for part in PARTS}
        steps = {"steps": len(run.lost), "tokens": None, "seconds": sum(record["seconds"] for record in run.lost)}
        rows.append(
            {"stage": _WASTE, "kind": "waste", **steps, "model": 0, "executed": run.wasted + run.inherited_waste, **empty}
        )
    return rows


def ledger_figure(run: RecordedRun) -> Plot | None:
    """Return a bar a stage, made of its parts; None where nothing was spent."""
    rows = [row for row in stage_rows(run) if row["executed"]]
    if not rows:
        return None
    name, scale = unit("flops", max(row["executed"] for row in rows))
    figure, axes = blank((SIZE[0], max(1.9, 0.9 + 0.42 * len(rows))))
    places = list(range(len(rows)))[::-1]
    left = np.zeros(len(rows))
    differs = any(row["model"] != row["executed"] for row in rows if row["kind"] != "waste")
    shown = [part for part in PARTS if any(row[f"executed_{part}"] for row in rows)]
    for number, part in enumerate(shown):
        widths = np.array([(row[f"executed_{part}"] or 0) / scale for row in rows])
        _stack(axes, places, widths, left, LOOKS[number], part_name(part))
        left += widths
    whole = np.array([0 if any(row[f"executed_{part}"] for part in PARTS) else row["executed"] / scale for row in rows])
    if whole.any():
        axes.barh(places, whole, height=0.62, color="#bbbbbb", label="not told apart")
    if differs:
        model = [row["model"] / scale if row["model"] else np.nan for row in rows]
        axes.plot(model, places, linestyle="", marker="|", markersize=16, markeredgewidth=2, color="black", label="model FLOPs")
    axes.set_yticks(places, [_short(row["stage"]) for row in rows])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(row["executed"] for row in rows) / scale * 1.16)
    for place, row in zip(places, rows, strict=True):
        _write_beside(axes, row["executed"] / scale, place, amount("flops", row["executed"]))
    axes.set_xlabel(f"executed compute ({name})")
    legend_above(figure, axes)
    caption = "Executed FLOPs of each stage, divided by the parts of the model. Evaluation is not counted."
    if differs:
        caption += " The black marks are model FLOPs, without what was computed again to save memory."
    told = "; ".join(f"{row['stage']}: {amount('flops', row['executed'])}" for row in rows)
    return Plot("ledger", "Compute by stage and part", caption, figure, rows, f"{caption} {told}.")


def compared_ledgers(methods: Sequence[Method]) -> Plot | None:
    """Return a bar a run, made of what its source, its own training and lost steps cost."""
    runs = [(method, run) for method in methods for run in method.runs if run.steps]
    if not runs:
        return None
    kinds = {"inherited": "given source", "source": "source trained here", "stage": "target", "waste": _WASTE}
    rows = []
    for method, run in runs:
        sums = dict.fromkeys(kinds, 0)
        for row in stage_rows(run):
            kind = "stage" if row["kind"] == "source" and run.from_scratch else row["kind"]
            sums[kind] += row["executed"] or 0
        rows.append({"method": method.name, "run": str(run.path), **{kinds[kind]: value for kind, value in sums.items()}})
    largest = max(sum(row[kind] for kind in kinds.values()) for row in rows)
    name, scale = unit("flops", largest)
    figure, axes = blank((SIZE[0], max(1.9, 0.9 + 0.3 * len(rows))))
    places, left = list(range(len(rows)))[::-1], np.zeros(len(rows))
    for number, kind in enumerate(kinds.values()):
        widths = np.array([row[kind] / scale for row in rows])
        if widths.any():
            _stack(axes, places, widths, left, LOOKS[(3, 1, 0, 6)[number]], kind)
        left += widths
    axes.set_yticks(places, [_label(method, run) for method, run in runs])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, largest / scale * 1.16)
    for place, end in zip(places, left, strict=True):
        _write_beside(axes, end, place, amount("flops", end * scale))
    axes.set_xlabel(f"executed compute ({name})")
    legend_above(figure, axes)
    caption = (
        "Executed FLOPs of each run: what its source cost, what was spent on the target, and steps that were lost and "
        "taken again."
    )
    told = "; ".join(f"{row['method']}: {amount('flops', end * scale)}" for row, end in zip(rows, left, strict=True))
    return Plot("compare-ledger", "Compute of each run", caption, figure, rows, f"{caption} {told}.")


def _stack(axes: Axes, places: list[int], widths: np.ndarray, left: np.ndarray, look: Look, label: str) -> None:
    """Draw one kind of cost in every bar, where what was drawn before it ends."""
    axes.barh(
        places,
        widths,
        left=left,
        height=0.62,
        color=look.color,
        alpha=0.85,
        hatch=look.hatch,
        edgecolor="white",
        linewidth=0.4,
        label=label,
    )


def _write_beside(axes: Axes, end: float, place: float, text: str) -> None:
    """Write beside the end of a bar."""
    axes.annotate(text, (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)


def _label(method: Method, run: RecordedRun) -> str:
    return _short(method.name if len(method.runs) == 1 else f"{method.name}, seed {run.recipe.seed}")


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:10]}…{text[-13:]}"
