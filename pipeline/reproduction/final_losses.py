"""Where runs end: their losses and what they cost, and what a method saved by its ends alone.

A run whose learning rate falls in the end alone (wsd) has a loss worth comparing at its end alone. With L* and C* the final
loss and the cost of the baseline's run with the same seed, a method saves 1 - C / C*, where C is the cost of its run that ends
with L*: interpolated, linearly in log C, between the ends of its runs of different lengths, and that of its cheapest run where
already that ends with L* or less. Beyond its runs nothing is extrapolated.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pipeline.report.recorded import RecordedRun, read_run
from pipeline.report.savings import Curve, Saving
from pipeline.reproduction.recorded_ends import RecordedEnd, settings_of, write_recorded_ends
from pipeline.reproduction.task import Task
from pipeline.runs import RunPaths


class EndPoint(NamedTuple):
    """What a run had spent at its end, in executed FLOPs, and its loss there, in nats."""

    spent: float
    loss: float


@dataclass(frozen=True)
class End:
    """How a run of a suite ended."""

    task: Task
    run: RecordedRun | None
    """None where it was run elsewhere."""
    loss: float | None
    """On held-out text; None where it is no number."""
    spent: int | None
    """Executed FLOPs of all that it took, a given source's and shared steps among them, without steps that were lost; None
    where a source's are not known."""
    at_last_size: int
    """Those from the last growth on."""
    tokens: int
    """Of this run, at all sizes."""

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.task.recipe.seed

    @property
    def point(self) -> EndPoint | None:
        """What it spent and its loss; None where one of them is not known."""
        return None if self.spent is None or self.loss is None else EndPoint(self.spent, self.loss)


@dataclass(frozen=True)
class SavedByFinalLoss:
    """What a method saved, both ways of counting."""

    counted: Saving
    """Everything counted."""
    source_free: Saving
    """From the last growth on."""
    by_seed: Mapping[int, float | None]
    """Everything counted; None where no run of the method came to the baseline's loss."""
    at_least: bool
    """Whether the shortest run was already there, so that a still shorter one might be."""


def end_of(task: Task) -> End:
    """Return how a run that has ended did so; raises UserError where its records cannot be read."""
    if task.recorded is not None:
        end = task.recorded
        return End(task, None, end["loss"], end["flops"], end["flops_at_last_size"], end["tokens"])
    run = read_run(task.run)
    flops, tokens = _spent(run, run.last_step)
    inherited = run.inherited_flops
    spent = None if inherited is None else flops + inherited
    return End(task, run, run.final_loss, spent, flops - _spent(run, _grown_at(run))[0], tokens)


def recorded_end(task: Task) -> RecordedEnd:
    """Return what is written of a run that has ended, or that was given up."""
    if task.recorded is not None:
        return task.recorded
    # One that diverged within a trunk was not started itself.
    run = read_run(task.run) if not task.diverged or RunPaths(task.run).recipe.is_file() else None
    flops, tokens = _spent(run, run.last_step) if run is not None and run.steps else (0, 0)
    end = End(task, run, None, flops, 0, tokens) if task.diverged else end_of(task)
    return {
        "name": task.name,
        "settings": settings_of(task.recipe),
        "text": "" if run is None or run.data is None else run.data["fingerprint"],
        "loss": end.loss,
        "diverged": task.diverged,
        "flops": end.spent,
        "flops_at_last_size": end.at_last_size,
        "tokens": end.tokens,
        "date": datetime.fromtimestamp(task.run.stat().st_mtime, UTC).date().isoformat(),
    }


def write_ended(directory: Path, tasks: Iterable[Task], recorded: Mapping[str, RecordedEnd]) -> None:
    """Write ends.jsonl, from which the same suite goes on elsewhere; `recorded` ends that are not the tasks' stay in it.

    Raises UserError, writing nothing, where not all runs were of one text.
    """
    ended = {task.name: recorded_end(task) for task in tasks if task.ended}
    directory.mkdir(parents=True, exist_ok=True)
    write_recorded_ends(
        directory / "ends.jsonl", [*ended.values(), *(end for name, end in recorded.items() if name not in ended)]
    )


def _spent(run: RecordedRun, step: int) -> tuple[int, int]:
    """FLOPs and tokens by a step."""
    spent = run.spent(step)
    return int(spent["flops"]), int(spent["tokens"])


def _grown_at(run: RecordedRun) -> int:
    """The step at which the model that the run ends with was made."""
    if run.from_scratch:
        return 0
    names = [stage.name for stage in run.recipe.phases[-1].stages]
    return min(begin for name, begin, _ in run.stages if name in names)


def saved_by_final_loss(ends: Sequence[End], baseline: Mapping[int, EndPoint], seeds: Iterable[int]) -> SavedByFinalLoss:
    """Return what a method saved: by its ended runs, with all seeds that it was run with.

    `baseline` has where the baseline's run ended, by seed. Of a seed without an ended run nothing was reached.
    """
    by_seed: dict[int, float | None] = {}
    free: list[float | None] = []
    at_least = False
    for seed in dict.fromkeys(seeds):
        if seed not in baseline:
            continue
        own = [end for end in ends if end.seed == seed]
        counted = [end.point for end in own if end.point is not None]
        by_seed[seed] = _share(counted, baseline[seed])
        free.append(_share([EndPoint(end.at_last_size, end.loss) for end in own if end.loss is not None], baseline[seed]))
        at_least |= bool(counted) and min(counted).loss <= baseline[seed].loss
    return SavedByFinalLoss(_saving(list(by_seed.values())), _saving(free), by_seed, at_least)


def _saving(shares: Sequence[float | None]) -> Saving:
    return Saving(tuple(one for one in shares if one is not None), len(shares))


def next_runs(methods: Iterable[Sequence[Task]], baseline: Task) -> list[Task]:
    """Return which of the methods' runs with the baseline's seed are to be made now: those of each that have not ended yet,
    from the longest on, as long as the longer one ended with the baseline's loss or less.

    What the longer run did not come to, no shorter one would, so that nothing is interpolated from it.
    """
    aim = end_of(baseline).loss if baseline.ended else None
    found = []
    for runs in methods:
        for task in sorted(runs, key=lambda task: task.length or 0.0, reverse=True):
            if not task.ended:
                found.append(task)
            if not task.ended or task.diverged or aim is None or (loss := end_of(task).loss) is None or loss > aim:
                break
    return found


def _share(points: Iterable[EndPoint], against: EndPoint) -> float | None:
    """1 - C / C*, of the runs of a method with one seed."""
    ordered = sorted(points)
    curve = Curve(tuple(math.log(point.spent) for point in ordered), tuple(point.loss for point in ordered))
    reached = curve.first_reached(against.loss)
    return None if reached is None else 1 - math.exp(reached) / against.spent
