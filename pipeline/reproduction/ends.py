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

from pipeline.report.recorded import RecordedRun, read_run
from pipeline.report.savings import Curve, Saving
from pipeline.reproduction.known import KnownEnd, settings_of, write_known
from pipeline.reproduction.task import Task
from pipeline.runs import RunPaths


@dataclass(frozen=True)
class End:
    """How a run of a suite ended."""

    task: Task
    run: RecordedRun | None
    """None where it was run elsewhere."""
    loss: float | None
    """On held-out text; None where it is no number."""
    spent: float | None
    """Executed FLOPs of all that it took, a given source's and shared steps among them, without steps that were lost; None
    where a source's are not known."""
    at_last_size: float
    """Those from the last growth on."""
    tokens: int
    """Of this run, at all sizes."""

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.task.recipe.seed


@dataclass(frozen=True)
class SavedAtEnds:
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
    if task.known is not None:
        known = task.known
        return End(task, None, known["loss"], known["flops"], known["flops_at_last_size"], known["tokens"])
    run = read_run(task.run)
    last, inherited = run.spent(run.last_step)["flops"], run.inherited_flops
    return End(
        task,
        run,
        run.final_loss,
        None if inherited is None else last + inherited,
        last - run.spent(_grown_at(run))["flops"],
        run.spent(run.last_step)["tokens"],
    )


def known_end(task: Task) -> KnownEnd:
    """Return what is written of a run that has ended, or that was given up."""
    if task.known is not None:
        return task.known
    # One that diverged within a trunk was not begun itself.
    run = read_run(task.run) if not task.diverged or RunPaths(task.run).recipe.is_file() else None
    last = run.spent(run.last_step) if run is not None and run.steps else {"flops": 0, "tokens": 0}
    end = End(task, run, None, last["flops"], 0, last["tokens"]) if task.diverged else end_of(task)
    return {
        "name": task.name,
        "settings": settings_of(task.recipe),
        "text": ((run and run.data) or {}).get("fingerprint", ""),
        "loss": end.loss,
        "diverged": task.diverged,
        "flops": end.spent,
        "flops_at_last_size": end.at_last_size,
        "tokens": end.tokens,
        "date": datetime.fromtimestamp(task.run.stat().st_mtime, UTC).date().isoformat(),
    }


def write_ended(directory: Path, tasks: Iterable[Task], known: Mapping[str, KnownEnd]) -> None:
    """Write ends.jsonl, from which the same suite goes on elsewhere; what was `known` and is none of the tasks' stays in it.

    Raises UserError, writing nothing, where not all runs were of one text.
    """
    ended = {task.name: known_end(task) for task in tasks if task.ended}
    directory.mkdir(parents=True, exist_ok=True)
    write_known(directory / "ends.jsonl", [*ended.values(), *(end for name, end in known.items() if name not in ended)])


def _grown_at(run: RecordedRun) -> int:
    """The step at which the model that the run ends with was made."""
    if run.from_scratch:
        return 0
    names = [stage.name for stage in run.recipe.phases[-1].stages]
    return min(begin for name, begin, _ in run.stages if name in names)


def saved_at_ends(ends: Sequence[End], baseline: Mapping[int, End], seeds: Iterable[int]) -> SavedAtEnds:
    """Return what a method saved: by its ended runs, with all seeds that it was run with.

    `baseline` has the baseline's run by seed. Of a seed without an ended run nothing was reached.
    """
    by_seed: dict[int, float | None] = {}
    free: list[float | None] = []
    at_least = False
    for seed in dict.fromkeys(seeds):
        against = baseline.get(seed)
        if against is None or None in (against.loss, against.spent):
            continue
        own = [end for end in ends if end.seed == seed and end.loss is not None]
        counted = [end for end in own if end.spent is not None]
        by_seed[seed] = _share(counted, [end.spent for end in counted], against)
        free.append(_share(own, [end.at_last_size for end in own], against))
        at_least |= bool(counted) and min(counted, key=lambda end: end.spent).loss <= against.loss
    return SavedAtEnds(
        *(Saving(tuple(one for one in shares if one is not None), len(shares)) for shares in (by_seed.values(), free)),
        by_seed,
        at_least,
    )


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


def _share(ends: Sequence[End], spent: Sequence[float], against: End) -> float | None:
    """1 - C / C*, of the runs of a method with one seed."""
    points = sorted(zip(map(math.log, spent), (end.loss for end in ends), strict=True))
    reached = Curve(*map(tuple, zip(*points, strict=True))).first_reached(against.loss) if points else None
    return None if reached is None else 1 - math.exp(reached) / against.spent
