"""The sweep of learning rates in a suite's results: a table, and what the trials cost."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.report.markdown import table
from pipeline.reproduction.final_losses import recorded_end
from pipeline.reproduction.results_page import paragraphs
from pipeline.reproduction.suite import Suite
from pipeline.reproduction.task import Sweep, Task
from pipeline.reproduction.tasks import swept_losses


def sweep_parts(suite: Suite, sweeps: Mapping[str, Sweep], rates: Mapping[str, float]) -> list[list[str]]:
    """Return the table of each method's trials, its best rate in bold, and what they cost; `rates` are the chosen ones."""
    if not sweeps:
        return [[f"Peak learning rate {rates[suite.baseline]:g}, not tuned."]]
    ended = all(task.ended for sweep in sweeps.values() for runs in sweep.values() for task in runs)
    if not ended:
        return [["The sweep of learning rates is not done."]]
    spent = {name: sum(_spent(task) for runs in sweep.values() for task in runs) for name, sweep in sweeps.items()}
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
    trials = len(suite.rates) * len(suite.tuning_seeds)
    taken = _taken_once([task for sweep in sweeps.values() for runs in sweep.values() for task in runs])
    edges = any("edge" in row[2] for row in rows)
    return [
        table(["sweep", "peak learning rate: mean final loss", "chosen", "cost, of a run from scratch"], rows),
        # Of trials that were run elsewhere it is not known what they shared.
        paragraphs("sweep_cost", trials, suite.tuning_seeds, sum(spent.values()) / one, taken / one, edges),
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
