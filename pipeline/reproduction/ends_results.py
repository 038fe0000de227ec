"""What a suite came to whose runs are compared by their ends: tables by horizon, a record for the planner, and reports."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

from data_prep.errors import UserError
from data_prep.files import write_atomically
from data_prep.report.parts import Grid
from pipeline.planning.record import entry_of
from pipeline.report.figures import STYLE
from pipeline.report.methods import spread
from pipeline.report.output import write_figures, write_rows
from pipeline.report.page import Judged, build
from pipeline.report.parts import Part
from pipeline.report.savings import Saving
from pipeline.report.tables import percent
from pipeline.reproduction.ends import End, SavedAtEnds, end_of, known_end, saved_at_ends, write_ended
from pipeline.reproduction.ends_figure import ends_plot
from pipeline.reproduction.suite import Suite
from pipeline.reproduction.task import Sweep, Task
from pipeline.reproduction.tasks import swept_losses
from pipeline.reproduction.words import provenance, table

_CLEARLY = 0.1
"""Nats by which a target is to be better than its source's size at as many tokens, for growth to be worth a comparison."""

_AS_MUCH = 1.02
"""Compute up to which a run counts as one for the baseline's."""


@dataclass(frozen=True)
class EndsComparison:
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


def write_ends(directory: Path, comparison: EndsComparison) -> None:
    """Write results.md, ends.jsonl, runs.jsonl, and by horizon report.html and figures, of what has ended.

    Raises UserError where a run of the baseline ended without a loss, and where not all runs were of one text.
    """
    suite = comparison.suite
    tasks = [task for methods in comparison.horizons.values() for runs in methods.values() for task in runs]
    swept = [task for sweep in comparison.sweeps.values() for runs in sweep.values() for task in runs]
    parts = [
        [f"## {comparison.title}"],
        *provenance([*tasks, *swept]),
        *([[f"{comparison.jobs} runs shared the machine at a time; times are not comparable."]] * (comparison.jobs > 1)),
        *_sweep_parts(comparison),
    ]
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
        saved = {name: saved_at_ends(of_name, against, seeds[name]) for name, of_name in ends.items() if name != baseline}
        parts += _horizon_parts(suite, horizon, ends, saved, baseline)
        _write_report(place, ends, saved, baseline)
    diverged = [task.name for task in tasks if task.diverged]
    parts += [[f"Diverged, and left out of all figures: {', '.join(diverged)}."]] * bool(diverged)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "results.md", "\n\n".join("\n".join(part) for part in parts) + "\n")
    write_ended(directory, [*tasks, *swept])
    _write_runs(directory / "runs.jsonl", [*((task, False) for task in tasks), *((task, True) for task in swept)])


def _sweep_parts(comparison: EndsComparison) -> list[list[str]]:
    suite, sweeps = comparison.suite, comparison.sweeps
    if not sweeps:
        return [[f"Peak learning rate {comparison.rates[suite.baseline]:g}, not tuned."]]
    ended = all(task.ended for sweep in sweeps.values() for runs in sweep.values() for task in runs)
    if not ended:
        return [["The sweep of learning rates is not done."]]
    costs = {name: sum(_spent(task) for runs in sweep.values() for task in runs) for name, sweep in sweeps.items()}
    # One that diverged may have ended early.
    one = max(_spent(task) for runs in sweeps[suite.baseline].values() for task in runs)
    rows = []
    for name, sweep in sweeps.items():
        chosen = comparison.rates.get(name)
        told = []
        for rate, losses in swept_losses(sweep).items():
            mean = math.inf if math.inf in losses else float(np.mean(losses))
            each = f"{rate:g}: {'none' if math.isinf(mean) else f'{mean:.4f}'}"
            told.append(f"**{each}**" if rate == chosen else each)
        edge = chosen in (min(sweep), max(sweep)) and len(sweep) > 1
        note = "none found" if chosen is None else f"{chosen:g}" + " (at the edge)" * edge
        rows.append([suite.methods[name].title, ", ".join(told), note, f"{costs[name] / one:.1f}"])
    trials = len(suite.rates) * len(suite.tuning_seeds)
    taken = _taken_once([task for sweep in sweeps.values() for runs in sweep.values() for task in runs])
    # Of trials that were run elsewhere it is not known what they shared.
    once = f"; with shared steps taken once, {taken / one:.1f} times" * (taken < 0.999 * sum(costs.values()))
    seeds = ", ".join(map(str, suite.tuning_seeds))
    told = (
        f"{trials} trials of each, with seeds that no final run has ({seeds}). They cost {sum(costs.values()) / one:.1f} "
        f"times a run from scratch, each trial counted whole{once}. None of it is in the columns of compute saved."
    )
    edges = any("edge" in row[2] for row in rows)
    more = " Where the best rate is at the edge, a better one may lie beyond." * edges
    return [
        table(["sweep", "peak learning rate: mean final loss", "chosen", "cost, of a run from scratch"], rows),
        [told + more],
    ]


def _spent(task: Task) -> float:
    return known_end(task)["flops"] or 0.0


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


def _of_baseline(ends: Sequence[End]) -> dict[int, End]:
    """The baseline's runs by seed; raises UserError where one ended without a loss."""
    for end in ends:
        if end.loss is None:
            raise UserError(
                f"{end.task.run}: the run of the baseline ended with a held-out loss that is no number, so there is nothing to "
                "compare with; lower the suite's rates"
            )
    return {end.seed: end for end in ends}


def _horizon_parts(
    suite: Suite, horizon: float, ends: Mapping[str, Sequence[End]], saved: Mapping[str, SavedAtEnds], baseline: str
) -> list[list[str]]:
    against = _of_baseline(ends[baseline])
    tokens = next(iter(against.values())).tokens
    spent = float(np.mean([end.spent for end in against.values()]))
    heads = [
        [f"### Horizon {horizon:g}: {tokens:,} tokens from scratch, {spent:.3g} FLOPs"] * (len(suite.horizons) > 1),
        ["Rates are those of the horizon " + f"{suite.horizons[0]:g}."] * (horizon != suite.horizons[0]),
    ]
    return [
        *(head for head in heads if head),
        _as_markdown(saved_grid(ends, saved, baseline)),
        _as_markdown(_ends_grid(ends, against, baseline)),
        [
            "Saved by where runs end, against the baseline's run with the same seed; between runs of different lengths by "
            "interpolation in the logarithm of compute, and never beyond them. A shorter run was made where the longer one "
            "ended with the baseline's loss or less. Everything counted: all sizes, from the first step on, shared steps too."
        ],
        *_standing(suite, ends, against),
    ]


def saved_grid(ends: Mapping[str, Sequence[End]], saved: Mapping[str, SavedAtEnds], baseline: str) -> Grid:
    """Return what each method saved, everything counted first."""
    rows = []
    for name, of_name in ends.items():
        seeds = str(len({end.seed for end in of_name}))
        if name == baseline:
            rows.append([name, seeds, *["baseline"] * 3])
            continue
        one = saved[name]
        each = ", ".join("–" if share is None else _whole(share) for share in one.by_seed.values())
        more = "≥ " if one.at_least else ""
        rows.append([name, seeds, more + _told(one.counted), each, more + _told(one.source_free)])
    head = ["method", "seeds", "compute saved, everything counted", "seed by seed", "saved, source free"]
    return Grid("Compute saved", head, rows)


def _whole(share: float) -> str:
    """A share in whole percent."""
    return f"{round(100 * share)}".replace("-", "−")


def _told(saving: Saving) -> str:
    return percent(saving) if saving.runs else "–"


def _ends_grid(ends: Mapping[str, Sequence[End]], against: Mapping[int, End], baseline: str) -> Grid:
    cost = float(np.mean([end.spent for end in against.values()]))
    rows = []
    for name, of_name in ends.items():
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
                    _mean(losses, len(same), "{:.4f}"),
                    "baseline" if name == baseline else _mean(beyond, len(same), "{:+.4f}").replace("-", "−"),
                ]
            )
    head = ["run", "peak rate", "tokens", "compute, of scratch's", "of which at the last size", "final loss", "above scratch's"]
    return Grid("Where runs end", head, rows)


def _mean(values: Sequence[float], runs: int, form: str) -> str:
    if not values:
        return "none"
    mean, deviation = spread(values)
    told = form.format(mean) + ("" if deviation is None else f" ± {deviation:.4f}")
    return told if len(values) == runs else f"{told} ({len(values)} of {runs} runs)"


def _standing(suite: Suite, ends: Mapping[str, Sequence[End]], against: Mapping[int, End]) -> list[list[str]]:
    """Whether the target is worth its compute here: against other sizes for as much, and its source's for as many tokens."""
    target = suite.methods[suite.baseline].title
    found = []
    cost = {seed: end.spent for seed, end in against.items()}
    others = {}
    for method in suite.methods.values():
        if method.frontier:
            gaps = _gaps(ends.get(method.title, ()), against, lambda end: end.spent <= _AS_MUCH * cost[end.seed])
            if gaps:
                others[method.title] = gaps
    if others:
        told = ", ".join(f"{name} {_signed(float(np.mean(gaps)))}" for name, gaps in others.items())
        on = all(np.mean(gaps) > 0 for gaps in others.values())
        found.append(
            [
                f"Fixed sizes for the same compute end so much above the target's loss, in nats: {told}. The target ({target}) "
                + (
                    "is on the frontier here: none of them ends as low."
                    if on
                    else "is **not** on the frontier here: a fixed size is as good for the same compute, so that what growth "
                    "saves has to be judged against that one."
                )
            ]
        )
    for method in suite.methods.values():
        of_method = ends.get(method.title, ()) if method.source_size else ()
        tokens = {end.tokens for end in [*of_method, *against.values()]}
        gaps = _gaps(of_method, against, lambda end: True) if len(tokens) == 1 else []
        if gaps:
            gap = float(np.mean(gaps))
            found.append(
                [
                    f"{method.title}, on as many tokens, ends {_signed(gap)} nats above the target: "
                    + ("the target is better by" if gap >= _CLEARLY else "**less** than")
                    + f" {_CLEARLY:g} nats"
                    + (" or more." if gap >= _CLEARLY else ", so that the target is hardly worth training here.")
                ]
            )
    return found


def _gaps(ends: Sequence[End], against: Mapping[int, End], counts: Callable[[End], bool]) -> list[float]:
    known = [end for end in ends if end.seed in against and end.loss is not None and end.spent is not None]
    return [end.loss - against[end.seed].loss for end in known if counts(end)]


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _as_markdown(grid: Grid) -> list[str]:
    return table(grid.head, grid.rows)


def _write_report(place: Path, ends: Mapping[str, Sequence[End]], saved: Mapping[str, SavedAtEnds], baseline: str) -> None:
    against = {end.seed: end for end in ends[baseline]}
    grid = saved_grid(ends, saved, baseline)
    with matplotlib.rc_context(STYLE):
        plot = ends_plot(ends, baseline)
    lines = [
        "The rates of these runs fall in their ends alone, so that they are compared by where they end, and not by where their "
        "curves cross: what a method saves is the compute of its run that ends with the baseline's final loss."
    ]
    part = Part(lines=lines, tables=[_ends_grid(ends, against, baseline)], plots=[plot] if plot else [])
    named = [
        (name if end.task.length is None else f"{name}, {end.task.length:.0%}", end.run)
        for name, of_name in ends.items()
        for end in of_name
        if end.run is not None
    ]
    place.mkdir(parents=True, exist_ok=True)
    if baseline not in {name for name, _ in named}:
        # Its curves are those of runs that were made elsewhere.
        write_figures(place / "figures", part.plots)
        write_rows(place / "rows", part.plots)
        return
    page = build(named, baseline, judged=Judged(grid, part))
    write_atomically(place / "report.html", page.html)
    write_figures(place / "figures", page.plots)
    write_rows(place / "rows", page.plots)


def _write_runs(path: Path, tasks: Sequence[tuple[Task, bool]]) -> None:
    """Write what a planner reads of each run that has ended with a loss, and which of the suite's runs it is.

    Runs that train parts of models are left out, which no record of the planner's has.
    """
    lines = []
    for task, trial in tasks:
        if not task.ended or task.diverged or task.known is not None:
            continue
        try:
            entry = entry_of(task.run)
        except UserError:
            continue
        of_suite = {key: getattr(task, key) for key in ("method", "title", "horizon", "length")}
        lines.append(json.dumps(entry | of_suite | {"trial": trial}) + "\n")
    write_atomically(path, "".join(lines))
