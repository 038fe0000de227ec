"""Where the compute went: what each stage of each run cost, in rows, tables and bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from data_prep.report.parts import Grid, table
from pipeline.flops.counts import PARTS, StepFlops
from pipeline.recipe import SOURCE_STAGE
from pipeline.report import prose
from pipeline.report.figures import LOOKS, SIZE, Look, Plot, amount, blank, legend_above, unit
from pipeline.report.methods import Method
from pipeline.report.recorded import RecordedRun

Named = Sequence[tuple[str, RecordedRun]]
"""Runs and what a page calls them."""

_COSTS = {"steps": "steps", "tokens": "tokens", "seconds": "seconds", "model": "flops", "executed": "flops"}
"""What a stage costs, and the quantity that it is."""
_KINDS = {"inherited": "given source", "source": "source trained here", "stage": "target", "waste": "taken again"}


def part_name(part: str) -> str:
    """Return a part of the model in words."""
    return "FFN" if part == "ffn" else part.replace("_", " ")


def stage_rows(run: RecordedRun) -> list[dict[str, Any]]:
    """Return what each stage cost, then each given source, then what was lost; numbers are None where they are not known.

    By part where the ledger counts as many steps as are on record, else by stage alone.
    """
    by_part = run.ledger.stages if run.ledger is not None and run.ledger_step == run.last_step else {}
    rows: list[dict[str, Any]] = []
    for stage, begin, end in run.stages:
        records = [record for record in run.steps if begin < record["step"] <= end]
        tokens, seconds = (run.spent(end)[key] - run.spent(begin)[key] for key in ("tokens", "seconds"))
        row: dict[str, Any] = {"stage": stage, "kind": "source" if stage == SOURCE_STAGE else "stage", "steps": end - begin}
        row |= {"tokens": tokens, "seconds": seconds}
        model, executed = (sum(record[key] for record in records) for key in ("flops_model", "flops_executed"))
        rows.append(row | _flops(by_part.get(stage), model, executed))
    for origin, line in ({} if run.ledger is None else run.ledger.inherited).items():
        known = line.flops if line.complete or line.spent else None
        row = {
            "stage": f"pre-training of {origin}" + ", at least" * bool(line.spent and not line.complete),
            "kind": "inherited",
        }
        row |= dict.fromkeys(("steps", "tokens", "seconds"))
        sums = (None, None) if known is None else (known.model_total, known.executed_total)
        rows.append(row | _flops(known, *sums))
    if run.wasted or run.inherited_waste:
        row = {"stage": _KINDS["waste"], "kind": "waste", "steps": len(run.lost), "tokens": None}
        row["seconds"] = sum(record["seconds"] for record in run.lost)
        rows.append(row | _flops(None, 0, run.wasted + run.inherited_waste))
    return rows


def _flops(by_part: StepFlops | None, model: int | None, executed: int | None) -> dict[str, int | None]:
    """FLOPs in a row: in all, and of each part where that is known."""
    parts = ({}, {}) if by_part is None else (by_part.model, by_part.executed)
    return {
        key: count
        for kind, whole, own in zip(("model", "executed"), (model, executed), parts, strict=True)
        for key, count in [(kind, whole), *((f"{kind}_{part}", own.get(part)) for part in PARTS)]
    }


def ledger_figure(run: RecordedRun) -> list[Plot]:
    """Return a bar a stage, made of its parts; no figure where nothing was spent."""
    rows = [row for row in stage_rows(run) if row["executed"]]
    if not rows:
        return []
    layers: dict[str, tuple[list[float], Look | None]] = {
        part_name(part): ([row[f"executed_{part}"] or 0 for row in rows], LOOKS[number])
        for number, part in enumerate(part for part in PARTS if any(row[f"executed_{part}"] for row in rows))
    }
    whole = [0 if any(row[f"executed_{part}"] for part in PARTS) else row["executed"] for row in rows]
    layers |= {"not divided by part": (whole, None)} if any(whole) else {}
    differs = any(row["model"] != row["executed"] for row in rows if row["kind"] != "waste")
    ends = [row["executed"] for row in rows]
    figure, axes = blank((SIZE[0], max(1.9, 0.9 + 0.42 * len(rows))))
    places, scale = _bars(axes, [row["stage"] for row in rows], layers, ends)
    if differs:
        model = [row["model"] / scale if row["model"] else np.nan for row in rows]
        axes.plot(model, places, linestyle="", marker="|", markersize=16, markeredgewidth=2, color="black", label="model FLOPs")
    legend_above(figure, axes)
    caption = prose.text("captions", "ledger", differs)
    spoken = f"{caption} {prose.text('captions', 'ends', [(row['stage'], row['executed']) for row in rows])}"
    return [Plot("ledger", "Compute by stage and part", caption, figure, rows, spoken)]


def compared_ledgers(methods: Sequence[Method]) -> list[Plot]:
    """Return a bar a run, made of what its source, its own training and lost steps cost; of runs with steps on record."""
    runs = [(method, run) for method in methods for run in method.runs if run.steps]
    rows: list[dict[str, Any]] = []
    for method, run in runs:
        sums = dict.fromkeys(_KINDS.values(), 0)
        for row in stage_rows(run):
            kind = "stage" if row["kind"] == "source" and run.from_scratch else row["kind"]
            sums[_KINDS[kind]] += row["executed"] or 0
        rows.append({"method": method.name, "run": str(run.path), **sums})
    looks = zip(_KINDS.values(), (LOOKS[number] for number in (3, 1, 0, 6)), strict=True)
    layers = {kind: ([row[kind] for row in rows], look) for kind, look in looks if any(row[kind] for row in rows)}
    ends = [sum(row[kind] for kind in _KINDS.values()) for row in rows]
    labels = [method.name if len(method.runs) == 1 else f"{method.name}, seed {run.recipe.seed}" for method, run in runs]
    figure, axes = blank((SIZE[0], max(1.9, 0.9 + 0.3 * len(rows))))
    _bars(axes, labels, layers, ends)
    legend_above(figure, axes)
    caption = prose.text("captions", "compared_ledgers")
    ends_read = prose.text("captions", "ends", [(row["method"], end) for row, end in zip(rows, ends, strict=True)])
    return [Plot("compare-ledger", "Compute of each run", caption, figure, rows, f"{caption} {ends_read}")]


def _bars(
    axes: Axes, labels: Sequence[str], layers: Mapping[str, tuple[Sequence[float], Look | None]], ends: Sequence[float]
) -> tuple[list[int], float]:
    """Draw bars of FLOPs, one below the other, each made of layers; return where they lie, and the unit."""
    name, scale = unit("flops", max(ends))
    places = list(range(len(labels)))[::-1]
    left = np.zeros(len(labels))
    for label, (flops, look) in layers.items():
        kind: dict[str, Any] = {"color": "#bbbbbb"}
        if look is not None:
            kind = {"color": look.color, "alpha": 0.85, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0.4}
        widths = np.array(flops) / scale
        axes.barh(places, widths, left=left, height=0.62, label=label, **kind)
        left = left + widths
    axes.set_yticks(places, [text if len(text) <= 24 else f"{text[:10]}…{text[-13:]}" for text in labels])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(ends) / scale * 1.16)
    for place, end in zip(places, ends, strict=True):
        words, tip = amount("flops", end), (end / scale, place)
        axes.annotate(words, tip, xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlabel(f"executed compute ({name})")
    return places, scale


def ledger_tables(runs: Named) -> list[Grid]:
    """Return what each stage of each run cost, whole, and by part where that is known."""
    whole, known = [], []
    for name, run in runs:
        rows = stage_rows(run)
        whole += [(name, row) for row in rows]
        known += [(name, row) for row in rows if row[f"executed_{PARTS[0]}"] is not None]
        own = [row for row in rows if row["kind"] in ("source", "stage")]
        if len(own) > 1:
            whole.append((name, {key: sum(row[key] for row in own) for key in _COSTS} | {"stage": "all stages"}))

    def head(name: str, stage: str) -> dict[str, str]:
        return {"stage": stage} if len(runs) == 1 else {"run": name, "stage": stage}

    names = {"seconds": "time", "model": "model FLOPs", "executed": "executed FLOPs"}
    cells = [
        head(name, row["stage"]) | {names.get(key, key): _cell(row[key], of) for key, of in _COSTS.items()}
        for name, row in whole
    ]
    grids = [table("Cost of each stage", cells, ["stage"])]
    if known:
        parts = [part for part in PARTS if any(row[f"executed_{part}"] for _, row in known)]
        alike = all(row["model"] == row["executed"] for _, row in known)
        cells = [
            head(name, row["stage"] + ("" if alike else f", {kind}"))
            | {part_name(part): _cell(row[f"{kind}_{part}"], "flops") for part in parts}
            for name, row in known
            for kind in (("executed",) if alike else ("model", "executed"))
        ]
        grids.append(table("Executed FLOPs by part" if alike else "FLOPs by part", cells, ["stage"]))
    return grids


def _cell(value: float | None, quantity: str) -> str:
    return amount(quantity, value) if value is not None else "not known" if quantity == "flops" else "–"


def memory_tables(runs: Named) -> list[Grid]:
    """Return the peak memory of each rank, on record once a run has ended."""
    rows = [
        {"run": name, "rank": str(rank), "memory": ", ".join(f"{gib:.2f} GiB {at.removesuffix('_gib')}" for at, gib in peaks)}
        for name, run in runs
        if run.summary is not None
        for rank, peaks in enumerate(peak.items() for peak in run.summary["peak_memory"])
    ]
    return [table("Peak memory of each rank", rows, ["memory"])] if rows else []
