"""What a suite came to whose runs are compared by their ends: tables by horizon, a record for the planner, and reports."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
import numpy as np

from data_prep.report.parts import Grid
from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically
from pipeline.planning.record import entry_of
from pipeline.report.figures import BASELINE, GREY, STYLE, Plot, blank, legend_above, look
from pipeline.report.page import Savings, build
from pipeline.report.prose import table
from pipeline.report.savings import Saving, percent
from pipeline.reproduction.final_losses import (
    End,
    EndPoint,
    SavedByFinalLoss,
    end_of,
    recorded_end,
    saved_by_final_loss,
    write_ended,
)
from pipeline.reproduction.results_page import (
    SuiteRuns,
    diverged_part,
    mean_in_words,
    paragraphs,
    percents,
    signed,
    write_page,
    write_report,
)
from pipeline.reproduction.suite import Suite
from pipeline.reproduction.task import Sweep, Task, all_tasks
from pipeline.reproduction.tasks import swept_losses

_PALE = 0.25
"""Of a curve beside the marks of its ends."""

_CLEARLY = 0.1
"""Nats by which a target is to be better than its source's size at as many tokens, for growth to be worth a runs."""

_AS_MUCH = 0.02
"""By what share of the baseline's compute a run may differ from it and count as one for the same compute."""

_SURE = 2.0
"""Standard errors over seeds by which a difference has to be from 0 before it counts as one."""


@dataclass(frozen=True)
class _Horizon:
    """What has ended at one horizon, by the methods' titles."""

    baseline: str
    ends: Mapping[str, Sequence[End]]
    against: Mapping[int, EndPoint]
    """Where the baseline's runs ended, by seed."""
    saved: Mapping[str, SavedByFinalLoss]
    """Of all methods but the baseline."""

    @property
    def cost(self) -> float:
        """What the baseline's runs took in the mean, in executed FLOPs."""
        return float(np.mean([point.spent for point in self.against.values()]))


def write_final_losses(directory: Path, runs: SuiteRuns) -> None:
    """Write results.md, ends.jsonl, runs.jsonl, and by horizon report.html and figures, of what has ended.

    Raises UserError where a run of the baseline ended without a loss, and where not all runs were of one text.
    """
    suite = runs.suite
    tasks, swept = all_tasks(runs.horizons), all_tasks(runs.sweeps)
    # First, since nothing else is worth writing of runs that do not compare.
    write_ended(directory, [*tasks, *swept], runs.recorded)
    parts = _sweep_parts(suite, runs.sweeps, runs.rates)
    for number, methods in runs.horizons.items():
        ended = {
            name: [end_of(task) for task in of_name if task.ended and not task.diverged] for name, of_name in methods.items()
        }
        ends = {name: of_name for name, of_name in ended.items() if of_name}
        # A seed whose runs all diverged has not come to the baseline's loss.
        seeds = {name: [task.recipe.seed for task in methods[name] if task.ended] for name in ends}
        baseline = runs.baseline
        if baseline not in ends:
            continue
        against = _of_baseline(ends[baseline])
        saved = {name: saved_by_final_loss(of_name, against, seeds[name]) for name, of_name in ends.items() if name != baseline}
        horizon = _Horizon(baseline, ends, against, saved)
        if len(suite.horizons) > 1:
            tokens = ends[baseline][0].tokens
            parts.append([f"### Horizon {number:g}: {tokens:,} tokens from scratch, {horizon.cost:.3g} FLOPs"])
        if number != suite.horizons[0]:
            parts.append([f"Rates are those of the horizon {suite.horizons[0]:g}."])
        parts += [_as_markdown(_saved_grid(horizon)), _as_markdown(_ends_grid(horizon)), paragraphs("saved_by_ends")]
        parts += _frontier_parts(suite, horizon)
        _write_report(directory if len(suite.horizons) == 1 else directory / f"horizon-{number:g}", horizon)
    write_page(directory, runs.title, runs.jobs, [*tasks, *swept], [*parts, *diverged_part(tasks)])
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


def _saved_grid(horizon: _Horizon) -> Grid:
    """What each method saved, everything counted first."""
    rows = []
    for name, ends in horizon.ends.items():
        cells = ["baseline"] * 3
        if name != horizon.baseline:
            one = horizon.saved[name]
            counted, free = ("≥ " * one.at_least + _percent(saving) for saving in (one.counted, one.source_free))
            cells = [counted, percents(one.by_seed.values()), free]
        rows.append([name, str(len({end.seed for end in ends})), *cells])
    head = ["method", "seeds", "compute saved, everything counted", "seed by seed", "saved, source free"]
    return Grid("Compute saved", head, rows)


def _percent(saving: Saving) -> str:
    """The mean of all seeds. A mean of those alone that came to the loss would flatter, since what others lost is not known."""
    if not saving.runs:
        return "–"
    reached = len(saving.shares)
    return f"reached by {reached} of {saving.runs} seeds" if 0 < reached < saving.runs else percent(saving)


def _ends_grid(horizon: _Horizon) -> Grid:
    cost, against = horizon.cost, horizon.against
    rows = []
    for name, of_name in horizon.ends.items():
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
                    "baseline" if name == horizon.baseline else mean_in_words(beyond, seeds, "seeds", "{:+.4f}"),
                ]
            )
    head = ["run", "peak rate", "tokens", "compute, of scratch's", "of which at the last size", "final loss", "above scratch's"]
    return Grid("Where runs end", head, rows)


def _as_markdown(grid: Grid) -> list[str]:
    return table(grid.head, [list(map(str, row)) for row in grid.rows])


def _write_report(place: Path, horizon: _Horizon) -> None:
    with matplotlib.rc_context(STYLE):
        plots = [_plot(horizon)]
    named = [
        (name if end.task.length is None else f"{name}, {end.task.length:.0%}", end.run)
        for name, ends in horizon.ends.items()
        for end in ends
        if end.run is not None
    ]
    # Where the baseline's runs were made elsewhere, their curves are not here.
    if any(name == horizon.baseline for name, _ in named):
        content = {"lines": paragraphs("compared_by_ends"), "tables": [_ends_grid(horizon)], "plots": plots}
        page = build(named, horizon.baseline, savings=Savings(_saved_grid(horizon), content))
        write_report(place, page.plots, page.html)
    else:
        write_report(place, plots)


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


def _plot(horizon: _Horizon) -> Plot:
    """Losses against compute: every method's curve, and a mark where each of its runs ends."""
    baseline, cost = horizon.baseline, horizon.cost
    known = {name: [(end, end.point) for end in ends if end.point is not None] for name, ends in horizon.ends.items()}
    known = {name: ends for name, ends in known.items() if ends}
    goal = float(np.mean([point.loss for _, point in known[baseline]]))
    figure, axes = blank()
    axes.axhline(goal, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)))
    others = [name for name in known if name != baseline]
    rows: list[dict[str, Any]] = []
    for name, ends in known.items():
        style = BASELINE if name == baseline else look(others.index(name))
        here = [(point.spent, end.seed, end.run) for end, point in ends if end.run is not None]
        if here:
            spent, _, run = max((one for one in here if one[1] == here[0][1]), key=itemgetter(0))
            before = spent - run.spent(run.last_step)["flops"]
            curve = [((run.spent(one.step)["flops"] + before) / cost, one.loss) for one in run.evaluations]
            axes.plot(*zip(*curve, strict=True), color=style.color, linewidth=0.8, alpha=_PALE)
        by_length: dict[float | None, list[EndPoint]] = {}
        for end, point in ends:
            by_length.setdefault(end.task.length, []).append(EndPoint(point.spent / cost, point.loss))
        # Of a length that some seeds alone were run at, the mean would compare other seeds.
        seeds = len({end.seed for end, _ in ends})
        means = sorted(tuple(np.mean(same, axis=0)) for same in by_length.values() if len(same) == seeds)
        line = style.dash if len(means) > 1 else ""
        axes.plot(*zip(*means, strict=True), color=style.color, linestyle=line, marker=style.marker, markersize=6, label=name)
        points = [point for same in by_length.values() for point in same]
        axes.plot(*zip(*points, strict=True), color=style.color, linestyle="", marker=".", markersize=3)
        rows += [
            {"method": name, "run": end.task.name, "seed": end.seed}
            | {"flops": point.spent, "of_baseline": point.spent / cost, "loss": point.loss}
            for end, point in ends
        ]
    losses = [row["loss"] for row in rows]
    spare = max(0.15 * (max(losses) - min(losses)), 0.02)
    axes.set_ylim(min(losses) - spare, max(losses) + 3 * spare)
    axes.set_xlim(0, 1.05 * max(row["of_baseline"] for row in rows))
    axes.set_xlabel(f"executed compute, everything counted ({baseline}: 1)")
    axes.set_ylabel("held-out loss (nats per scored token)")
    legend_above(figure, axes)
    caption = (
        "Held-out loss against compute, everything counted. A large mark is the mean of the ends of a method's runs of one "
        "length with all seeds, a dot the end of one run, and a pale curve the way to one of them: the rate falls in the end "
        f"alone, and only ends compare. The dashed line is {baseline}'s final loss, {goal:.4f}."
    )
    return Plot("ends", "Held-out loss at the ends of runs, against compute", caption, figure, rows)


def _frontier_parts(suite: Suite, horizon: _Horizon) -> list[list[str]]:
    """In words whether the target is worth its compute: against other sizes, and its source's on as many tokens."""
    target, ends, against = horizon.baseline, horizon.ends, horizon.against
    found: list[list[str]] = []
    others: dict[str, list[float]] = {}
    for method in suite.methods.values():
        pairs = _pairs(ends.get(method.title, ()), against) if method.frontier else []
        if gaps := [point.loss - base.loss for point, base in pairs if abs(point.spent / base.spent - 1) <= _AS_MUCH]:
            others[method.title] = gaps
    if others:
        each = ", ".join(f"{name} {signed(fmean(gaps))}" for name, gaps in others.items())
        lowest = min(others.values(), key=fmean)
        sure = _SURE * stdev(lowest) / math.sqrt(len(lowest)) if len(lowest) > 1 else 0.0
        found.append(paragraphs("frontier", target, each, lowest, sure))
    for method in suite.methods.values():
        of_method = ends.get(method.title, ()) if method.source_size else ()
        tokens = {end.tokens for end in [*of_method, *ends.get(target, ())]}
        gaps = [point.loss - base.loss for point, base in _pairs(of_method, against)] if len(tokens) == 1 else []
        if gaps:
            found.append(paragraphs("source_size", method.title, fmean(gaps), _CLEARLY))
    return found


def _pairs(ends: Sequence[End], against: Mapping[int, EndPoint]) -> list[tuple[EndPoint, EndPoint]]:
    """Where runs ended, each with where the baseline's run of its seed did."""
    return [(end.point, against[end.seed]) for end in ends if end.point is not None and end.seed in against]


def _sweep_parts(suite: Suite, sweeps: Mapping[str, Sweep], rates: Mapping[str, float]) -> list[list[str]]:
    """The table of each method's trials, its best rate in bold, and what they cost; `rates` are the chosen ones."""
    if not sweeps:
        return [[f"Peak learning rate {rates[suite.baseline]:g}, not tuned."]]
    trials = all_tasks(sweeps)
    if not all(task.ended for task in trials):
        return [["The sweep of learning rates is not done."]]
    spent = {name: sum(map(_spent, all_tasks({name: sweep}))) for name, sweep in sweeps.items()}
    # One that diverged may have ended early.
    one = max(_spent(task) for runs in sweeps[suite.baseline].values() for task in runs)
    rows = []
    for name, sweep in sweeps.items():
        chosen = rates.get(name)
        cells = []
        for rate, losses in swept_losses(sweep).items():
            mean = math.inf if math.inf in losses else float(np.mean(losses))
            each = f"{rate:g}: {'none' if math.isinf(mean) else f'{mean:.4f}'}"
            cells.append(f"**{each}**" if rate == chosen else each)
        edge = chosen in (min(sweep), max(sweep)) and len(sweep) > 1
        note = "none found" if chosen is None else f"{chosen:g}" + " (at the edge)" * edge
        rows.append([suite.methods[name].title, ", ".join(cells), note, f"{spent[name] / one:.1f}"])
    of_each, taken = len(suite.rates) * len(suite.tuning_seeds), _taken_once(trials)
    edges = any("edge" in row[2] for row in rows)
    return [
        table(["sweep", "peak learning rate: mean final loss", "chosen", "cost, of a run from scratch"], rows),
        # Of trials that were run elsewhere it is not known what they shared.
        paragraphs("sweep_cost", of_each, suite.tuning_seeds, sum(spent.values()) / one, taken / one, edges),
    ]


def _spent(task: Task) -> float:
    return recorded_end(task)["flops"] or 0.0


def _taken_once(tasks: Sequence[Task]) -> float:
    """The FLOPs that runs came to with those of shared steps counted once."""
    found: dict[str, float] = {}
    waiting = list(tasks)
    while waiting:
        task = waiting.pop()
        if task.name not in found:
            # A trunk of runs that were all made elsewhere was not run here.
            trunk = task.trunk if task.trunk is not None and task.trunk.ended else None
            found[task.name] = _spent(task) - (0.0 if trunk is None else _spent(trunk))
            waiting += [trunk] if trunk is not None else []
    return sum(found.values())
