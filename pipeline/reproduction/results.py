"""What a suite came to: one table of all methods, and the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.files import write_atomically
from pipeline.report.comparison import View, savings
from pipeline.report.methods import Method, spread
from pipeline.report.output import write_figures, write_rows
from pipeline.report.page import build
from pipeline.report.recorded import read_run
from pipeline.report.savings import saved_at
from pipeline.report.tables import percent
from pipeline.reproduction.suite import TUNING_SEEDS
from pipeline.reproduction.tasks import Task, swept_losses

_EASIER = (0.05, 0.1, 0.2)
"""Nats above the baseline's final loss: losses that are easier to reach."""


def write_results(
    directory: Path, title: str, rate: float, sweep: Mapping[float, Sequence[Task]], tasks: Mapping[str, list[Task]]
) -> None:
    """Write results.md, report.html and the figures of all runs that have ended; the baseline comes first."""
    methods = [Method(name, [read_run(task.run) for task in runs if task.ended]) for name, runs in tasks.items()]
    methods = [method for method in methods if method.runs]
    baseline = methods[0]
    page = build([(method.name, run) for method in methods for run in method.runs], baseline.name)
    write_atomically(directory / "report.html", page.html)
    write_figures(directory / "figures", page.plots)
    write_rows(directory / "rows", page.plots)
    lines = [
        f"## {title}",
        "",
        *_sweep_table(rate, sweep),
        "",
        *_methods_table(methods, baseline),
        "",
        *_targets_table(methods, baseline),
    ]
    write_atomically(directory / "results.md", "\n".join(lines) + "\n")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), _row(["---"] + ["---:"] * (len(head) - 1)), *map(_row, rows)]


def _sweep_table(rate: float, sweep: Mapping[float, Sequence[Task]]) -> list[str]:
    if not sweep:
        return [f"Peak learning rate {rate:g}, not tuned."]
    rows = [
        [f"{one:g}" + (" (chosen)" if one == rate else ""), *(f"{loss:.4f}" for loss in losses)]
        for one, losses in swept_losses(sweep).items()
    ]
    edge = rate in (min(sweep), max(sweep))
    note = ["", "The best rate is at the edge of the sweep: a better one may lie beyond."] if edge else []
    return [
        *_table(["peak learning rate, from scratch", *(f"final held-out loss, seed {seed}" for seed in TUNING_SEEDS)], rows),
        *note,
    ]


def _told(values: Sequence[float]) -> str:
    mean, deviation = spread(values)
    return f"{mean:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _methods_table(methods: Sequence[Method], baseline: Method) -> list[str]:
    without, with_source = (savings(methods, baseline, View("flops", counted)) for counted in (False, True))
    rows = []
    for method in methods:
        starts = [run.growth_points[0]["loss"] for run in method.runs if run.growth_points]
        saved = ["baseline"] * 2 if method is baseline else [percent(found[method.name]) for found in (without, with_source)]
        rows.append([method.name, str(len(method.runs)), _told(starts) if starts else "", _told(method.final_losses), *saved])
    head = ["method", "seeds", "loss after growth", "final held-out loss", "compute saved", "saved, source included"]
    return _table(head, rows)


def _targets_table(methods: Sequence[Method], baseline: Method) -> list[str]:
    """Compute saved at easier losses than the baseline's last, so that not all hangs on one."""
    final = sum(baseline.final_losses) / len(baseline.final_losses)
    curves = {method.name: method.curves("flops", with_source=False) for method in methods}
    rows = []
    for method in methods:
        if method is not baseline:
            found = [saved_at(curves[method.name], curves[baseline.name], final + above) for above in _EASIER]
            rows.append([method.name, *("–" if not one else f"{100 * sum(one) / len(one):.1f} %" for one in found)])
    return _table(["compute saved by the time the loss is", *(f"{final + above:.3f}" for above in _EASIER)], rows)
