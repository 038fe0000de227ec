"""What a suite came to: tables of all methods, and the report."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from pipeline.common.errors import UserError
from pipeline.report.methods import COMPUTE, COMPUTE_WITH_SOURCE, Method
from pipeline.report.page import build
from pipeline.report.prose import table
from pipeline.report.recorded import read_run
from pipeline.report.savings import percent
from pipeline.reproduction.results_page import SuiteRuns, diverged_part, mean_in_words, percents, write_page, write_report
from pipeline.reproduction.task import Task, all_tasks
from pipeline.reproduction.tasks import swept_losses

_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the baseline's compute, at which all methods' losses are compared."""


def write_results(directory: Path, runs: SuiteRuns) -> None:
    """Write results.md, report.html and the figures of all methods of which a run has ended.

    Raises UserError where a run of the baseline ended without a loss.
    """
    (tasks_of,) = runs.horizons.values()
    methods = _ended(tasks_of)
    (baseline,) = (method for method in methods if method.name == runs.baseline)
    for run in baseline.runs:
        if run.final_loss is None:
            raise UserError(
                f"{run.path}: the run of the baseline ended with a held-out loss that is no number, so there is nothing to "
                "compare with; lower the suite's rates"
            )
    page = build([(method.name, run) for method in methods for run in method.runs], baseline.name)
    write_report(directory, page.plots, page.html)
    # Each of the baseline's runs ended with a loss.
    cost = fmean(curve.spent[-1] for curve in baseline.settled.curves(COMPUTE))
    parts = [
        _sweep_table(runs.rates[runs.suite.baseline], runs.sweeps.get(runs.suite.baseline, {})),
        _sources_table(_ended(runs.sources), baseline, cost),
        _methods_table(methods, baseline, cost),
        *diverged_part(all_tasks(runs.horizons)),
        _losses_table(methods, cost),
    ]
    tasks = [*all_tasks(runs.sweeps), *all_tasks({"sources": runs.sources}), *all_tasks(runs.horizons)]
    write_page(directory, runs.title, runs.jobs, tasks, parts)


def _ended(tasks: Mapping[str, Sequence[Task]]) -> list[Method]:
    runs = {
        name: [read_run(task.run) for task in of_name if task.ended and not task.diverged] for name, of_name in tasks.items()
    }
    return [Method(name, of_name) for name, of_name in runs.items() if of_name]


def _sweep_table(rate: float, sweep: Mapping[float, Sequence[Task]]) -> list[str]:
    if not sweep:
        return [f"Peak learning rate {rate:g}, not tuned."]
    rows = [
        [f"{one:g}" + (" (chosen)" if one == rate else ""), *("none" if math.isinf(loss) else f"{loss:.4f}" for loss in losses)]
        for one, losses in swept_losses(sweep).items()
    ]
    edge = rate in (min(sweep), max(sweep))
    note = ["", "The best rate is at the edge of the sweep: a better one may lie beyond."] if edge else []
    seeds = [task.recipe.seed for task in next(iter(sweep.values()))]
    head = ["peak learning rate, from scratch", *(f"final held-out loss, seed {seed}" for seed in seeds)]
    return [*table(head, rows), *note]


def _sources_table(sources: Sequence[Method], baseline: Method, cost: float) -> list[str]:
    rows = []
    for source in sources:
        loss = mean_in_words(source.final_losses, len(source.runs), "runs")
        rows.append([source.name, str(len(source.runs)), loss, f"{_spent(source) / cost:.0%}"])
    goal = np.mean(baseline.final_losses)
    as_good = [source.name for source in sources if source.final_losses and np.mean(source.final_losses) <= goal]
    note = f"Of {', '.join(as_good)} the loss is as low as the baseline's: what is saved from there is no saving of growth's."
    return [
        *table(["source", "seeds", "final held-out loss", "compute, of the baseline's"], rows),
        *(["", note] * bool(as_good)),
    ]


def _methods_table(methods: Sequence[Method], baseline: Method, cost: float) -> list[str]:
    rows = []
    for method in methods:
        # Where a method grows several times, the last growth is the one into the target.
        starts = [run.growth_points[-1].loss for run in method.runs if run.growth_points]
        if method is baseline:
            saved = ["baseline"] * 3
        else:
            mean, counted = (percent(method.saving(view, baseline)) for view in (COMPUTE, COMPUTE_WITH_SOURCE))
            saved = [mean, _seed_by_seed(method, baseline), counted]
        losses = [
            mean_in_words(starts, len(starts), "runs") if starts else "",
            mean_in_words(method.final_losses, len(method.runs), "runs"),
        ]
        rows.append([method.name, str(len(method.runs)), *saved, *losses, f"{_spent(method) / cost:.0%}"])
    head = ["method", "seeds", "compute saved", "seed by seed", "saved, source included"]
    return [
        *table([*head, "loss after growth", "final loss", "compute in all"], rows),
        "",
        "Saved against the mean of the baseline's runs, whose own spread is not in ±; seed by seed, against the baseline's run "
        "with that seed.",
    ]


def _seed_by_seed(method: Method, baseline: Method) -> str:
    """What each run saved against the baseline's of the same seed, in percent."""
    shares = []
    for run in method.runs:
        for other in baseline.runs:
            if other.recipe.seed == run.recipe.seed:
                saved = Method(method.name, [run]).saving(COMPUTE, Method(baseline.name, [other]))
                shares.append(None if saved is None else saved.mean)
    return percents(shares)


def _losses_table(methods: Sequence[Method], cost: float) -> list[str]:
    """The losses at equal compute, so that not all hangs on one target; methods that end before have none."""
    rows = [[one.name, *(_loss_at(one.curves(COMPUTE), share * cost) for share in _SHARES)] for one in methods]
    return table(["held-out loss after", *(f"{share:.0%} of the baseline's compute" for share in _SHARES)], rows)


def _loss_at(curves: Sequence, spent: float) -> str:
    # A run's last step may fall short of a round share by less than a step.
    if not all(curve.spent and curve.spent[0] <= spent <= 1.001 * curve.spent[-1] for curve in curves):
        return "–"
    return f"{np.mean([np.interp(spent, curve.spent, curve.losses) for curve in curves]):.4f}"


def _spent(method: Method) -> float:
    return float(np.mean([run.spent(run.last_step)["flops"] for run in method.runs]))
