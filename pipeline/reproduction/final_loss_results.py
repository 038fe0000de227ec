"""What a suite came to whose runs are compared by their ends: tables by horizon, a record for the planner, and reports."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np

from data_prep.report.parts import Grid
from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically
from pipeline.planning.record import entry_of
from pipeline.report.figures import STYLE, write_figures, write_rows
from pipeline.report.markdown import table
from pipeline.report.page import Savings, build
from pipeline.report.savings import Saving, percent
from pipeline.reproduction.final_loss_figure import final_loss_plot
from pipeline.reproduction.final_losses import End, EndPoint, SavedByFinalLoss, end_of, saved_by_final_loss, write_ended
from pipeline.reproduction.frontier import frontier_parts
from pipeline.reproduction.recorded_ends import RecordedEnd
from pipeline.reproduction.results_page import diverged_part, mean_in_words, paragraphs, percents, write_page
from pipeline.reproduction.suite import Suite
from pipeline.reproduction.sweep_results import sweep_parts
from pipeline.reproduction.task import Sweep, Task


@dataclass(frozen=True)
class FinalLossComparison:
    """A suite's runs, finished or not."""

    suite: Suite
    title: str
    jobs: int
    rates: Mapping[str, float]
    """By the methods' keys; the baseline's alone where everyone takes it."""
    sweeps: Mapping[str, Sweep]
    """Likewise."""
    horizons: Mapping[float, Mapping[str, Sequence[Task]]]
    """The runs at each horizon by the methods' titles."""
    recorded: Mapping[str, RecordedEnd] = field(default_factory=dict)
    """How runs ended elsewhere, by their names."""


def write_final_losses(directory: Path, comparison: FinalLossComparison) -> None:
    """Write results.md, ends.jsonl, runs.jsonl, and by horizon report.html and figures, of what has ended.

    Raises UserError where a run of the baseline ended without a loss, and where not all runs were of one text.
    """
    suite = comparison.suite
    tasks = [task for methods in comparison.horizons.values() for runs in methods.values() for task in runs]
    swept = [task for sweep in comparison.sweeps.values() for runs in sweep.values() for task in runs]
    # First, since nothing else is worth writing of runs that do not compare.
    write_ended(directory, [*tasks, *swept], comparison.recorded)
    parts = sweep_parts(suite, comparison.sweeps, comparison.rates)
    for horizon, methods in comparison.horizons.items():
        ends = {name: [end_of(task) for task in runs if task.ended and not task.diverged] for name, runs in methods.items()}
        ends = {name: of_name for name, of_name in ends.items() if of_name}
        # A seed whose runs all diverged has not come to the baseline's loss.
        seeds = {name: [task.recipe.seed for task in methods[name] if task.ended] for name in ends}
        baseline = suite.methods[suite.baseline].title
        if baseline not in ends:
            continue
        place = directory if len(suite.horizons) == 1 else directory / f"horizon-{horizon:g}"
        against = _of_baseline(ends[baseline])
        saved = {name: saved_by_final_loss(of_name, against, seeds[name]) for name, of_name in ends.items() if name != baseline}
        parts += _horizon_parts(suite, horizon, ends, saved, against)
        _write_report(place, ends, saved, baseline, against)
    write_page(directory, comparison.title, comparison.jobs, [*tasks, *swept], [*parts, *diverged_part(tasks)])
    _write_runs(directory / "runs.jsonl", [*((task, False) for task in tasks), *((task, True) for task in swept)])


def _of_baseline(ends: Sequence[End]) -> dict[int, EndPoint]:
    """Where the baseline's runs ended, by seed; raises UserError where one ended without a loss."""
    points: dict[int, EndPoint] = {}
    for end in ends:
        if end.point is None:
            what = "a held-out loss that is no number" if end.loss is None else "a cost that is not known"
            raise UserError(
                f"{end.task.run}: the run of the baseline ended with {what}, so there is nothing to compare with; lower the "
                "suite's rates, or give the run that its source came from"
            )
        points[end.seed] = end.point
    return points


def _horizon_parts(
    suite: Suite,
    horizon: float,
    ends: Mapping[str, Sequence[End]],
    saved: Mapping[str, SavedByFinalLoss],
    against: Mapping[int, EndPoint],
) -> list[list[str]]:
    baseline = suite.methods[suite.baseline].title
    tokens = ends[baseline][0].tokens
    spent = float(np.mean([point.spent for point in against.values()]))
    heads = [
        [f"### Horizon {horizon:g}: {tokens:,} tokens from scratch, {spent:.3g} FLOPs"] * (len(suite.horizons) > 1),
        ["Rates are those of the horizon " + f"{suite.horizons[0]:g}."] * (horizon != suite.horizons[0]),
    ]
    return [
        *(head for head in heads if head),
        _as_markdown(saved_grid(ends, saved, baseline)),
        _as_markdown(_ends_grid(ends, against, baseline)),
        paragraphs("saved_by_ends"),
        *frontier_parts(suite, ends, against),
    ]


def saved_grid(ends: Mapping[str, Sequence[End]], saved: Mapping[str, SavedByFinalLoss], baseline: str) -> Grid:
    """Return what each method saved, everything counted first."""
    rows = []
    for name, of_name in ends.items():
        seeds = str(len({end.seed for end in of_name}))
        if name == baseline:
            rows.append([name, seeds, *["baseline"] * 3])
            continue
        one = saved[name]
        more = "≥ " if one.at_least else ""
        counted, free = (more + _percent(saving) for saving in (one.counted, one.source_free))
        rows.append([name, seeds, counted, percents(one.by_seed.values()), free])
    head = ["method", "seeds", "compute saved, everything counted", "seed by seed", "saved, source free"]
    return Grid("Compute saved", head, rows)


def _percent(saving: Saving) -> str:
    """The mean of all seeds. A mean of those alone that came to the loss would flatter, since what others lost is not known."""
    if not saving.runs:
        return "–"
    reached = len(saving.shares)
    return f"reached by {reached} of {saving.runs} seeds" if 0 < reached < saving.runs else percent(saving)


def _ends_grid(ends: Mapping[str, Sequence[End]], against: Mapping[int, EndPoint], baseline: str) -> Grid:
    cost = float(np.mean([point.spent for point in against.values()]))
    rows = []
    for name, of_name in ends.items():
        seeds = len({end.seed for end in of_name})
        for length in dict.fromkeys(end.task.length for end in of_name):
            same = [end for end in of_name if end.task.length == length]
            losses = [end.loss for end in same if end.loss is not None]
            beyond = [end.loss - against[end.seed].loss for end in same if end.loss is not None and end.seed in against]
            known = [end.spent for end in same if end.spent is not None]
            rows.append(
                [
                    name if length is None else f"{name}, {length:.0%}",
                    f"{same[0].task.recipe.optimizer.lr:g}",
                    f"{same[0].tokens:,}",
                    f"{np.mean(known) / cost:.1%}" if len(known) == len(same) else "not known",
                    f"{np.mean([end.at_last_size for end in same]) / cost:.1%}",
                    mean_in_words(losses, seeds, "seeds"),
                    "baseline" if name == baseline else mean_in_words(beyond, seeds, "seeds", "{:+.4f}"),
                ]
            )
    head = ["run", "peak rate", "tokens", "compute, of scratch's", "of which at the last size", "final loss", "above scratch's"]
    return Grid("Where runs end", head, rows)


def _as_markdown(grid: Grid) -> list[str]:
    return table(grid.head, [list(map(str, row)) for row in grid.rows])


def _write_report(
    place: Path,
    ends: Mapping[str, Sequence[End]],
    saved: Mapping[str, SavedByFinalLoss],
    baseline: str,
    against: Mapping[int, EndPoint],
) -> None:
    grid = saved_grid(ends, saved, baseline)
    with matplotlib.rc_context(STYLE):
        plot = final_loss_plot(ends, baseline)
    plots = [plot] if plot else []
    content = {"lines": paragraphs("compared_by_ends"), "tables": [_ends_grid(ends, against, baseline)], "plots": plots}
    named = [
        (name if end.task.length is None else f"{name}, {end.task.length:.0%}", end.run)
        for name, of_name in ends.items()
        for end in of_name
        if end.run is not None
    ]
    place.mkdir(parents=True, exist_ok=True)
    if baseline not in {name for name, _ in named}:
        # Its curves are those of runs that were made elsewhere.
        write_figures(place / "figures", plots)
        write_rows(place / "rows", plots)
        return
    page = build(named, baseline, savings=Savings(grid, content))
    write_atomically(place / "report.html", page.html)
    write_figures(place / "figures", page.plots)
    write_rows(place / "rows", page.plots)


def _write_runs(path: Path, tasks: Sequence[tuple[Task, bool]]) -> None:
    """Write what a planner reads of each run that has ended with a loss, and which of the suite's runs it is.

    Runs that train parts of models are left out, which no record of the planner's has.
    """
    lines = []
    for task, trial in tasks:
        if not task.ended or task.diverged or task.recorded is not None:
            continue
        try:
            entry = entry_of(task.run)
        except UserError:
            continue
        of_suite = {key: getattr(task, key) for key in ("method", "title", "horizon", "length")}
        lines.append(json.dumps(entry | of_suite | {"trial": trial}) + "\n")
    write_atomically(path, "".join(lines))
