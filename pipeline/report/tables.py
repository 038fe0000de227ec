"""Tables of the report: methods, savings, ledgers, scores, settings."""

import json
import math
from collections.abc import Sequence
from typing import Any

from data_prep.report.numbers import counted
from data_prep.report.parts import Grid
from pipeline.evaluation.scores import LOWER_IS_BETTER, Score
from pipeline.flops.counts import PARTS
from pipeline.report.comparison import View, savings
from pipeline.report.compute import part_name, stage_rows
from pipeline.report.figures import amount
from pipeline.report.methods import NOTHING, Method, differing, settings_of, spread
from pipeline.report.recorded import QUANTITIES, RecordedRun
from pipeline.report.savings import Saving

NOT_KNOWN = "not known"
_COSTS = {"steps": "steps", "tokens": "tokens", "seconds": "seconds", "model": "flops", "executed": "flops"}
"""What a stage costs, and the quantity that it is."""

_HEADS = {"flops": "executed compute", "tokens": "tokens", "steps": "steps", "seconds": "time"}


_NO_MATTER = frozenset({"chosen", "prefix", "ranks", "limit", "max_eval"})
"""Settings of a score that belong to the model or the machine, or that the number of examples says already."""


def percent(saving: Saving | None) -> str:
    """Return a saving in percent, with what is to be known of its runs."""
    if saving is None:
        return NOT_KNOWN
    if saving.mean is None:
        return "not reached"
    told = f"{100 * saving.mean:.1f} %".replace("-", "−")
    if saving.deviation is not None:
        told += f" ± {100 * saving.deviation:.1f}"
    return told if len(saving.shares) == saving.runs else f"{told} ({len(saving.shares)} of {saving.runs} runs)"


def savings_table(methods: Sequence[Method], baseline: Method) -> Grid:
    """Return what each method saved of each quantity, counted from the growth on and with the source."""
    rows = []
    for with_source in (False, True):
        by_quantity = {quantity: savings(methods, baseline, View(quantity, with_source)) for quantity in QUANTITIES}
        for method in methods:
            if method is not baseline:
                counted = "with the source's training" if with_source else "from the growth on"
                rows.append([method.name, counted, *(percent(by_quantity[quantity][method.name]) for quantity in QUANTITIES)])
    rows.sort(key=lambda row: [method.name for method in methods].index(row[0]))
    waste = [
        f"{method.name} {amount('flops', sum(run.wasted + run.inherited_waste for run in method.runs))}" for method in methods
    ]
    return Grid(
        f"Saved until {baseline.name}'s final held-out loss is first reached",
        ["method", "counted", *(_HEADS[quantity] for quantity in QUANTITIES)],
        rows,
        frozenset({1}),
        [
            "Compute is executed FLOPs of training steps. Time is that of training steps, without the growth itself, "
            "evaluation, checkpoints and the time between a stop and a resume.",
            f"Waste, executed FLOPs of steps that were lost and taken again, is in none of these figures: {', '.join(waste)}.",
        ],
    )


def overview_table(methods: Sequence[Method], baseline: Method | None) -> Grid:
    """Return the methods with their main figures, means over runs."""
    saved = {} if baseline is None else savings(methods, baseline, View("flops", False))
    saved_all = {} if baseline is None else savings(methods, baseline, View("flops", True))
    rows = []
    for method in methods:
        losses = method.final_losses
        final, deviation = spread(losses) if losses else (None, None)
        loss = "none yet" if final is None else f"{final:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
        ended = sum(run.ended for run in method.runs)
        state = (
            "ended"
            if ended == len(method.runs)
            else f"{ended} of {len(method.runs)} ended"
            if len(method.runs) > 1
            else "not ended"
        )
        flops = [run.spent(run.last_step)["flops"] - run.source_spent["flops"] for run in method.runs]
        own = [
            percent(found[method.name]) if method.name in found else ("baseline" if method is baseline else "–")
            for found in (saved, saved_all)
        ]
        rows.append([method.name, str(len(method.runs)), state, verdict(method), loss, amount("flops", spread(flops)[0]), *own])
    return Grid(
        "Methods",
        [
            "method",
            "runs",
            "state",
            "growth",
            "final held-out loss",
            "compute on the target",
            "compute saved",
            "saved, source included",
        ],
        rows,
        frozenset({2, 3}),
    )


def verdict(method: Method) -> str:
    """Return what the growths of a method's first run that grows came to."""
    if method.from_scratch:
        return "none: from scratch"
    found = ", ".join(dict.fromkeys(certificate["verdict"] for certificate in method.grown_run.certificates))
    without = sum(run.from_scratch for run in method.runs)
    return (found or "not grown yet") + (f" (nothing is grown in {without} of {len(method.runs)} runs)" if without else "")


def ledger_tables(runs: Sequence[tuple[str, RecordedRun]]) -> list[Grid]:
    """Return what each stage of each run cost, whole, and by part where that is known."""
    whole, known = [], []
    for name, run in runs:
        rows = stage_rows(run)
        whole += [(name, row) for row in rows]
        known += [(name, row) for row in rows if row[f"executed_{PARTS[0]}"] is not None]
        own = [row for row in rows if row["kind"] in ("source", "stage")]
        if len(own) > 1:
            whole.append((name, {key: sum(row[key] for row in own) for key in _COSTS} | {"stage": "all stages"}))
    title = ["stage"] if len(runs) == 1 else ["run", "stage"]
    cells = [
        [*_titled(name, row, runs), *(_told(row[key], quantity) for key, quantity in _COSTS.items())] for name, row in whole
    ]
    words = frozenset({len(title) - 1})
    grids = [Grid("Cost of each stage", [*title, "steps", "tokens", "time", "model FLOPs", "executed FLOPs"], cells, words)]
    if known:
        parts = [part for part in PARTS if any(row[f"executed_{part}"] for _, row in known)]
        alike = all(row["model"] == row["executed"] for _, row in known)
        cells = [
            [
                *_titled(name, row, runs, "" if alike else f", {kind}"),
                *(_told(row[f"{kind}_{part}"], "flops") for part in parts),
            ]
            for name, row in known
            for kind in (("executed",) if alike else ("model", "executed"))
        ]
        head = [*title, *(part_name(part) for part in parts)]
        grids.append(Grid("Executed FLOPs by part" if alike else "FLOPs by part", head, cells, words))
    return grids


def _titled(name: str, row: dict[str, Any], runs: Sequence[tuple[str, RecordedRun]], kind: str = "") -> list[str]:
    return [row["stage"] + kind] if len(runs) == 1 else [name, row["stage"] + kind]


def _told(value: float | None, quantity: str) -> str:
    if value is None:
        return NOT_KNOWN if quantity == "flops" else "–"
    return amount(quantity, value)


def memory_table(runs: Sequence[tuple[str, RecordedRun]]) -> Grid | None:
    """Return the peak memory of each rank, on record once a run has ended."""
    rows = [
        [name, str(rank), ", ".join(f"{value:.2f} GiB {where.removesuffix('_gib')}" for where, value in peak.items())]
        for name, run in runs
        if run.summary is not None
        for rank, peak in enumerate(run.summary["peak_memory"])
    ]
    return Grid("Peak memory of each rank", ["run", "rank", "memory"], rows, frozenset({2})) if rows else None


def score_tables(scores: Sequence[tuple[str, Score]]) -> list[Grid]:
    """Return a table for each task, its data and how it was scored: models in rows, metrics in columns."""
    groups: dict[tuple[str, ...], list[tuple[str, Score]]] = {}
    for name, score in scores:
        alike = json.dumps([score.data.get(key) for key in ("digest", "examples")])
        how = json.dumps({key: value for key, value in score.settings.items() if key not in _NO_MATTER}, sort_keys=True)
        groups.setdefault((score.task, alike, how), []).append((name, score))
    tables = []
    for (task, _, _), found in groups.items():
        first = [scored[0][1] for (other, _, _), scored in groups.items() if other == task]
        keys = dict.fromkeys(key for score in first for key in score.settings if key not in _NO_MATTER)
        apart = [key for key in keys if len({_setting(score, key) for score in first}) > 1]
        told = [_examples(found[0][1])] if len({_examples(score) for score in first}) > 1 else []
        told += [f"{key} {_setting(found[0][1], key)}" for key in apart]
        tables.append(_score_table(task + (f": {', '.join(told)}" if told else ""), found))
    return tables


def _examples(score: Score) -> str:
    count = score.data.get("examples")
    return "an unknown number of examples" if count is None else counted(count, "example")


def _score_table(title: str, found: list[tuple[str, Score]]) -> Grid:
    metrics = list(dict.fromkeys(metric for _, score in found for metric in score.metrics))
    keys = list(dict.fromkeys(key for _, score in found for key in score.settings))
    differ = [key for key in keys if len({_setting(score, key) for _, score in found}) > 1]
    best = {metric: _best(metric, [score for _, score in found]) for metric in metrics}
    rows = []
    for name, score in found:
        where = score.model if score.stage is None else f"{score.stage}, step {score.step:,}"
        cells = [_value(score, metric, best[metric]) for metric in metrics]
        apart = [", ".join(f"{key} {_setting(score, key)}" for key in differ)] if differ else []
        rows.append([f"{name}: {where}", _examples(score).split()[0] if "examples" in score.data else "–", *cells, *apart])
    data, first = found[0][1].data, found[0][1]
    told = "; ".join(dict.fromkeys(score.data["note"] for _, score in found if score.data.get("note")))
    notes = [f"Data: {data.get('source')}, digest {data.get('digest')}, {_examples(first)}." + (f" {told}." if told else "")]
    common = ", ".join(f"{key} {_setting(first, key)}" for key in keys if key not in differ)
    if common:
        notes.append(f"Settings: {common}.")
    if any(value is not None for value in best.values()):
        notes.append(
            "“best” stands beside the best value of each column, where it is one model's alone: "
            + ", ".join(f"{m} {'lower' if m in LOWER_IS_BETTER else 'higher'}" for m in metrics)
            + " is better."
        )
    if any(score.deviations for _, score in found):
        notes.append("± is the standard deviation over fine-tuning seeds.")
    head = ["model", "examples", *metrics, *(["settings that differ"] if differ else [])]
    return Grid(title, head, rows, frozenset({len(metrics) + 2}) if differ else frozenset(), notes)


def _setting(score: Score, key: str) -> str:
    value = score.settings.get(key)
    return value if isinstance(value, str) else json.dumps(value)


def _best(metric: str, scores: list[Score]) -> float | None:
    values = [score.metrics[metric] for score in scores if math.isfinite(score.metrics.get(metric, math.nan))]
    if len(values) < 2:
        return None
    best = min(values) if metric in LOWER_IS_BETTER else max(values)
    # What reads the same is a tie for whoever reads it.
    return best if [_told_score(value) for value in values].count(_told_score(best)) == 1 else None


def _told_score(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1e4 else f"{value:.4f}"


def _value(score: Score, metric: str, best: float | None) -> str:
    value = score.metrics.get(metric)
    if value is None:
        return "–"
    told = _told_score(value)
    deviation = (score.deviations or {}).get(metric)
    told += "" if deviation is None else f" ± {deviation:.4f}"
    return f"best {told}" if value == best else told


def settings_table(methods: Sequence[Method]) -> Grid | None:
    """Return the settings in which the methods' recipes differ; None where they do not."""
    settings = [settings_of(method.runs[0]) for method in methods]
    rows = [[key, *(_chosen(one, key) for one in settings)] for key in differing(settings)]
    if not rows:
        return None
    names = [method.name for method in methods]
    return Grid("Settings that differ", ["setting", *names], rows, frozenset(range(1, len(names) + 1)))


def _chosen(settings: dict[str, str], key: str) -> str:
    """A setting, or all that a stage or another object says where other methods have none."""
    inner = {path.removeprefix(f"{key}."): value for path, value in settings.items() if path.startswith(f"{key}.")}
    if inner:
        return ", ".join(f"{path} {value}" for path, value in inner.items() if value not in NOTHING)
    return settings.get(key, "absent" if key.startswith("stage ") and "." not in key else "–")
