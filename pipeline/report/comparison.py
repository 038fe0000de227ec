"""Several methods side by side: what limits the comparison, where each starts, and what each saved."""

import statistics
from collections.abc import Sequence
from typing import Any

from data_prep.report.parts import Grid, table
from pipeline.report import prose
from pipeline.report.figures import amount
from pipeline.report.methods import COMPUTE, COMPUTE_WITH_SOURCE, Method, View, mixed, spread
from pipeline.report.recorded import QUANTITIES, RecordedRun
from pipeline.report.savings import Reference, Saving, percent

_FALLING = ("cosine", "linear", "wsd")
"""Schedules whose rate falls over all the steps of a model; those that do not reach their end with it."""


def limits(methods: Sequence[Method], baseline: Method | None) -> list[str]:
    """Return what limits a comparison."""
    runs = [run for method in methods for run in method.runs]
    summaries = [run.summary for run in runs if run.summary is not None]
    facts = {
        "mixed": {method.name: keys for method in methods if (keys := mixed(method))},
        "going": 0 if baseline is None else sum(not run.ended for run in baseline.runs),
        "texts": len(_fingerprints(runs)),
        "windows": len({(run.recipe.evaluation.windows, run.recipe.data.sequence_length) for run in runs}),
        "ranks": len({len(summary["peak_memory"]) for summary in summaries}),
        "devices": len({_device(summary["peak"]) for summary in summaries if "peak" in summary}),
        "ends": len({end for run in runs if (end := _end(run)) is not None}),
        "lengths": list(dict.fromkeys(steps for run in runs if (steps := _target_steps(run)) is not None)),
        "falling": any(run.recipe.schedule.name in _FALLING for run in runs),
    }
    return prose.lines("comparison", "limits", methods, baseline, facts)


def starts(methods: Sequence[Method], baseline: Method | None) -> list[str]:
    """Return where each method starts, and what it needs for the baseline's loss, as far as both are on record.

    A method on other data than the baseline's is left out.
    """
    against = None if baseline is None else baseline.reference(COMPUTE)
    if baseline is None or against is None or not against.spent:
        return []
    lines = []
    for method in methods:
        start, own = _start(method), method.saving(COMPUTE, baseline)
        if (
            method is not baseline
            and start is not None
            and own is not None
            and len(_fingerprints([*method.runs, *baseline.runs])) <= 1
        ):
            facts = {"start": start, "baseline_start": _start(baseline), "against": against, "own": own}
            lines.append(prose.text("comparison", "start", method, baseline, facts | {"needed": _needed(method, against)}))
    return lines


def saved(methods: Sequence[Method], baseline: Method | None, reason: str) -> dict[str, Any]:
    """Return what each method saved as lines, points and tables, or `reason` where there is no baseline."""
    if baseline is None:
        return {"lines": [reason]}
    against = baseline.reference(COMPUTE)
    others = [method for method in methods if method is not baseline]
    if against is None or not against.spent or not others:
        return {"lines": prose.lines("comparison", "no_saving", baseline)}
    curves = [curve for curve in baseline.settled.curves(COMPUTE) if curve.losses and curve.spent[-1]]
    ends = [(curve.first_reached(curve.losses[-1]), curve.spent[-1]) for curve in curves]
    early = statistics.fmean(1 - first / last for first, last in ends if first is not None)
    return {
        "lines": prose.lines("comparison", "definition", baseline, against, early),
        "points": [
            prose.text("comparison", "saved", method, *_both_savings(method, baseline), _needed(method, against))
            for method in others
        ],
        "tables": [_savings_table(methods, baseline)],
    }


def _both_savings(method: Method, baseline: Method) -> tuple[Saving | None, Saving | None]:
    """The compute saved from the growth on, and with what the source cost."""
    return method.saving(COMPUTE, baseline), method.saving(COMPUTE_WITH_SOURCE, baseline)


def _needed(method: Method, against: Reference) -> float | None:
    """What those of a method's runs that reached a loss spent until then, on average."""
    reached = [curve.first_reached(against.loss) for curve in method.curves(COMPUTE)]
    known = [spent for spent in reached if spent is not None]
    return statistics.fmean(known) if known else None


def _fingerprints(runs: Sequence[RecordedRun]) -> set[str]:
    return {run.data["fingerprint"] for run in runs if run.data is not None}


def _start(method: Method) -> float | None:
    """The mean loss of the untrained or just grown target over a method's runs; None where it is not on record of all."""
    losses = []
    for run in method.runs:
        first = next(iter(run.evaluations if run.from_scratch else run.target_evaluations), None)
        if first is None or not (first.step == 0 if run.from_scratch else first in run.growth_points):
            return None
        losses.append(first.loss)
    return statistics.fmean(losses)


def _target_steps(run: RecordedRun) -> int | None:
    """How many steps a run's target is trained for, by its recipe; None where a length is not in steps."""
    lengths = [stage.steps for stage in run.recipe.phases[-1].stages]
    # From scratch the source is the target, which may be trained as either.
    if run.from_scratch and run.recipe.source.steps is not None:
        lengths.insert(0, run.recipe.source.steps)
    known = [length for length in lengths if length is not None]
    return sum(known) if len(known) == len(lengths) else None


def _end(run: RecordedRun) -> tuple[str, int, int] | None:
    """The family, layers and hidden size of the model that a run ends with; None where they are not known yet."""
    if run.recipe.source.model is not None and run.planned is not None:
        return run.recipe.source.model.family, run.planned[-1].num_hidden_layers, run.planned[-1].hidden_size
    # Of a model on the way nothing follows for the last one.
    if len(run.certificates) <= len(run.recipe.phases) - 2:
        return None
    last = run.certificates[-1]
    return last["family"], last["target"]["num_hidden_layers"], last["target"]["hidden_size"]


def _device(peak: str) -> str:
    """What a summary says of the device, without a speed that was measured, which is another each time."""
    _, rest = peak.split(maxsplit=1)
    return rest if "measured" in rest else peak


def _savings_table(methods: Sequence[Method], baseline: Method) -> Grid:
    heads = {"flops": "executed compute", "tokens": "tokens", "steps": "steps", "seconds": "time"}
    rows = [
        {"method": method.name, "counted": counted}
        | {heads[quantity]: percent(method.saving(View(quantity, with_source), baseline)) for quantity in QUANTITIES}
        for method in methods
        if method is not baseline
        for with_source, counted in ((False, "from the growth on"), (True, "with the source's training"))
    ]
    waste = [f"{one.name} {amount('flops', sum(run.wasted + run.inherited_waste for run in one.runs))}" for one in methods]
    title = f"Saved until {baseline.name}'s final held-out loss is first reached"
    return table(title, rows, ["counted"], prose.lines("comparison", "notes", waste))


def overview(methods: Sequence[Method], baseline: Method | None) -> Grid:
    """Return the methods with their main figures, means over runs."""
    rows = []
    for method in methods:
        mean, deviation = spread(method.final_losses) if method.final_losses else (None, None)
        count, ended = len(method.runs), sum(run.ended for run in method.runs)
        going = f"{ended} of {count} ended" if count > 1 else "not ended"
        flops, _ = spread([run.spent(run.last_step)["flops"] - run.source_spent["flops"] for run in method.runs])
        saved = ["–"] * 2 if baseline is None else ["baseline"] * 2
        if baseline is not None and method is not baseline:
            saved = [percent(one) for one in _both_savings(method, baseline)]
        rows.append(
            {
                "method": method.name,
                "runs": str(count),
                "state": "ended" if ended == count else going,
                "growth": _exactness(method),
                "final held-out loss": "none yet"
                if mean is None
                else f"{mean:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}"),
                "compute on the target": amount("flops", flops),
                "compute saved": saved[0],
                "saved, source included": saved[1],
            }
        )
    return table("Methods", rows, ["state", "growth"])


def _exactness(method: Method) -> str:
    """How exact the growths of a method's first run that grows were predicted to be."""
    if method.from_scratch:
        return "none: from scratch"
    found = ", ".join(dict.fromkeys(certificate["verdict"] for certificate in method.grown_run.certificates))
    without = sum(run.from_scratch for run in method.runs)
    return (found or "not grown yet") + (f" (nothing is grown in {without} of {len(method.runs)} runs)" if without else "")
