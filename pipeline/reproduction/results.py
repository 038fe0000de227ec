"""What a suite came to: tables of all methods, and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.files import write_atomically
from pipeline.report.comparison import View, savings
from pipeline.report.methods import Method, spread
from pipeline.report.output import write_figures, write_rows
from pipeline.report.page import build
from pipeline.report.recorded import read_run
from pipeline.report.tables import percent
from pipeline.reproduction.suite import TUNING_SEEDS
from pipeline.reproduction.tasks import Task, swept_losses

_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the baseline's compute, at which all methods' losses are compared."""


@dataclass(frozen=True)
class Comparison:
    """Runs that belong together, finished or not."""

    title: str
    rate: float
    sweep: Mapping[float, Sequence[Task]]
    sources: Mapping[str, Sequence[Task]]
    """By their names."""
    methods: Mapping[str, Sequence[Task]]
    """By their titles."""
    baseline: str
    """The title of one of them."""


def write_results(directory: Path, comparison: Comparison) -> None:
    """Write results.md, report.html and the figures of all methods of which a run has ended."""
    methods = _ended(comparison.methods)
    (baseline,) = (method for method in methods if method.name == comparison.baseline)
    directory.mkdir(parents=True, exist_ok=True)
    page = build([(method.name, run) for method in methods for run in method.runs], baseline.name)
    write_atomically(directory / "report.html", page.html)
    write_figures(directory / "figures", page.plots)
    write_rows(directory / "rows", page.plots)
    parts = [
        [f"## {comparison.title}"],
        _sweep_table(comparison.rate, comparison.sweep),
        _sources_table(_ended(comparison.sources), baseline),
        _methods_table(methods, baseline),
        _losses_table(methods, baseline),
    ]
    write_atomically(directory / "results.md", "\n\n".join("\n".join(part) for part in parts) + "\n")


def _ended(tasks: Mapping[str, Sequence[Task]]) -> list[Method]:
    methods = [Method(name, [read_run(task.run) for task in runs if task.ended]) for name, runs in tasks.items()]
    return [method for method in methods if method.runs]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] + ["---:"] * (len(head) - 1), *rows)]


def _sweep_table(rate: float, sweep: Mapping[float, Sequence[Task]]) -> list[str]:
    if not sweep:
        return [f"Peak learning rate {rate:g}, not tuned."]
    rows = [
        [f"{one:g}" + (" (chosen)" if one == rate else ""), *(f"{loss:.4f}" for loss in losses)]
        for one, losses in swept_losses(sweep).items()
    ]
    edge = rate in (min(sweep), max(sweep))
    note = ["", "The best rate is at the edge of the sweep: a better one may lie beyond."] if edge else []
    head = ["peak learning rate, from scratch", *(f"final held-out loss, seed {seed}" for seed in TUNING_SEEDS)]
    return [*_table(head, rows), *note]


def _sources_table(sources: Sequence[Method], baseline: Method) -> list[str]:
    spent = baseline.reference("flops", with_source=False).spent
    rows = [
        [source.name, str(len(source.runs)), _told(source.final_losses), f"{_spent(source) / spent:.0%}"] for source in sources
    ]
    as_good = [source.name for source in sources if np.mean(source.final_losses) <= np.mean(baseline.final_losses)]
    note = f"Of {', '.join(as_good)} the loss is as low as the baseline's: what is saved from there is no saving of growth's."
    return [
        *_table(["source", "seeds", "final held-out loss", "compute, of the baseline's"], rows),
        *(["", note] * bool(as_good)),
    ]


def _methods_table(methods: Sequence[Method], baseline: Method) -> list[str]:
    without, with_source = (savings(methods, baseline, View("flops", counted)) for counted in (False, True))
    spent = baseline.reference("flops", with_source=False).spent
    rows = []
    for method in methods:
        # Where a method grows several times, the last growth is the one into the target.
        starts = [run.growth_points[-1]["loss"] for run in method.runs if run.growth_points]
        saved = ["baseline"] * 2 if method is baseline else [percent(found[method.name]) for found in (without, with_source)]
        losses = [_told(starts) if starts else "", _told(method.final_losses)]
        rows.append([method.name, str(len(method.runs)), *saved, *losses, f"{_spent(method) / spent:.0%}"])
    head = ["method", "seeds", "compute saved", "saved, source included", "loss after growth", "final loss", "compute in all"]
    return _table(head, rows)


def _losses_table(methods: Sequence[Method], baseline: Method) -> list[str]:
    """The losses at equal compute, so that not all hangs on one target; methods that end before have none."""
    spent = baseline.reference("flops", with_source=False).spent
    rows = []
    for method in methods:
        curves = method.curves("flops", with_source=False)
        rows.append([method.name, *(_loss_at(curves, share * spent) for share in _SHARES)])
    return _table(["held-out loss after", *(f"{share:.0%} of the baseline's compute" for share in _SHARES)], rows)


def _loss_at(curves: Sequence, spent: float) -> str:
    # A run's last step may fall short of a round share by less than a step.
    if not all(curve.spent and curve.spent[0] <= spent <= 1.001 * curve.spent[-1] for curve in curves):
        return "–"
    return f"{np.mean([np.interp(spent, curve.spent, curve.losses) for curve in curves]):.4f}"


def _spent(method: Method) -> float:
    return float(np.mean([run.spent(run.last_step)["flops"] for run in method.runs]))


def _told(values: Sequence[float]) -> str:
    if not values:
        return "none"
    mean, deviation = spread(values)
    return f"{mean:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
