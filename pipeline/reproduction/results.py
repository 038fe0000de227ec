"""What a suite came to: tables of all methods, and the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically
from pipeline.report.comparison import View, savings
from pipeline.report.figures import write_figures, write_rows
from pipeline.report.markdown import table
from pipeline.report.methods import Method, spread
from pipeline.report.page import build
from pipeline.report.recorded import read_run
from pipeline.report.savings import percent
from pipeline.reproduction.task import Task
from pipeline.reproduction.tasks import swept_losses
from pipeline.reproduction.words import provenance

_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the baseline's compute, at which all methods' losses are compared."""


@dataclass(frozen=True)
class Comparison:
    """Runs that belong together, finished or not."""

    title: str
    jobs: int
    """Runs that share the machine at a time."""
    rate: float
    sweep: Mapping[float, Sequence[Task]]
    sources: Mapping[str, Sequence[Task]]
    """By their names."""
    methods: Mapping[str, Sequence[Task]]
    """By their titles."""
    baseline: str
    """The title of one of them."""


def write_results(directory: Path, comparison: Comparison) -> None:
    """Write results.md, report.html and the figures of all methods of which a run has ended.

    Raises UserError where a run of the baseline ended without a loss.
    """
    methods = _ended(comparison.methods)
    (baseline,) = (method for method in methods if method.name == comparison.baseline)
    for run in baseline.runs:
        if run.final_loss is None:
            raise UserError(
                f"{run.path}: the run of the baseline ended with a held-out loss that is no number, so there is nothing to "
                "compare with; lower the suite's rates"
            )
    directory.mkdir(parents=True, exist_ok=True)
    page = build([(method.name, run) for method in methods for run in method.runs], baseline.name)
    write_atomically(directory / "report.html", page.html)
    write_figures(directory / "figures", page.plots)
    write_rows(directory / "rows", page.plots)
    groups = (comparison.sweep, comparison.sources, comparison.methods)
    parts = [
        [f"## {comparison.title}"],
        *provenance([task for group in groups for tasks in group.values() for task in tasks]),
        *([[f"{comparison.jobs} runs shared the machine at a time; times are not comparable."]] * (comparison.jobs > 1)),
        _sweep_table(comparison.rate, comparison.sweep),
        _sources_table(_ended(comparison.sources), baseline),
        _methods_table(methods, baseline),
        *_given_up(comparison.methods),
        _losses_table(methods, baseline),
    ]
    write_atomically(directory / "results.md", "\n\n".join("\n".join(part) for part in parts) + "\n")


def _ended(tasks: Mapping[str, Sequence[Task]]) -> list[Method]:
    runs = {
        name: [read_run(task.run) for task in of_name if task.ended and not task.diverged] for name, of_name in tasks.items()
    }
    return [Method(name, of_name) for name, of_name in runs.items() if of_name]


def _given_up(methods: Mapping[str, Sequence[Task]]) -> list[list[str]]:
    names = [task.name for tasks in methods.values() for task in tasks if task.diverged]
    return [[f"Diverged, and left out of all figures: {', '.join(names)}."]] if names else []


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


def _sources_table(sources: Sequence[Method], baseline: Method) -> list[str]:
    spent = baseline.reference("flops", with_source=False).spent
    rows = [
        [source.name, str(len(source.runs)), _told(source.final_losses, len(source.runs)), f"{_spent(source) / spent:.0%}"]
        for source in sources
    ]
    goal = np.mean(baseline.final_losses)
    as_good = [source.name for source in sources if source.final_losses and np.mean(source.final_losses) <= goal]
    note = f"Of {', '.join(as_good)} the loss is as low as the baseline's: what is saved from there is no saving of growth's."
    return [
        *table(["source", "seeds", "final held-out loss", "compute, of the baseline's"], rows),
        *(["", note] * bool(as_good)),
    ]


def _methods_table(methods: Sequence[Method], baseline: Method) -> list[str]:
    without, with_source = (savings(methods, baseline, View("flops", counted)) for counted in (False, True))
    spent = baseline.reference("flops", with_source=False).spent
    rows = []
    for method in methods:
        # Where a method grows several times, the last growth is the one into the target.
        starts = [run.growth_points[-1].loss for run in method.runs if run.growth_points]
        if method is baseline:
            saved = ["baseline"] * 3
        else:
            mean, counted = (percent(found[method.name]) for found in (without, with_source))
            saved = [mean, _seed_by_seed(method, baseline), counted]
        losses = [_told(starts, len(starts)) if starts else "", _told(method.final_losses, len(method.runs))]
        rows.append([method.name, str(len(method.runs)), *saved, *losses, f"{_spent(method) / spent:.0%}"])
    head = ["method", "seeds", "compute saved", "seed by seed", "saved, source included"]
    return [
        *table([*head, "loss after growth", "final loss", "compute in all"], rows),
        "",
        "Saved against the mean of the baseline's runs, whose own spread is not in ±; seed by seed, against the baseline's run "
        "with that seed.",
    ]


def _seed_by_seed(method: Method, baseline: Method) -> str:
    """What each run saved against the baseline's of the same seed, in percent."""
    cells = []
    for run in method.runs:
        for other in baseline.runs:
            if other.recipe.seed == run.recipe.seed:
                alone = Method(method.name, [run])
                saved = savings([alone], Method(baseline.name, [other]), View("flops", with_source=False))[method.name]
                cells.append("–" if saved is None or saved.mean is None else f"{100 * saved.mean:.0f}".replace("-", "−"))
    return ", ".join(cells)


def _losses_table(methods: Sequence[Method], baseline: Method) -> list[str]:
    """The losses at equal compute, so that not all hangs on one target; methods that end before have none."""
    spent = baseline.reference("flops", with_source=False).spent
    rows = []
    for method in methods:
        curves = method.curves("flops", with_source=False)
        rows.append([method.name, *(_loss_at(curves, share * spent) for share in _SHARES)])
    return table(["held-out loss after", *(f"{share:.0%} of the baseline's compute" for share in _SHARES)], rows)


def _loss_at(curves: Sequence, spent: float) -> str:
    # A run's last step may fall short of a round share by less than a step.
    if not all(curve.spent and curve.spent[0] <= spent <= 1.001 * curve.spent[-1] for curve in curves):
        return "–"
    return f"{np.mean([np.interp(spent, curve.spent, curve.losses) for curve in curves]):.4f}"


def _spent(method: Method) -> float:
    return float(np.mean([run.spent(run.last_step)["flops"] for run in method.runs]))


def _told(values: Sequence[float], runs: int) -> str:
    if not values:
        return "none"
    mean, deviation = spread(values)
    text = f"{mean:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
    return text if len(values) == runs else f"{text} ({len(values)} of {runs} runs)"
