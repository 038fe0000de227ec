"""The runs of a suite, and the results of them."""

import argparse
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.common.built_in import BUILT_IN
from pipeline.common.errors import UserError
from pipeline.reproduction.final_loss_results import write_final_losses
from pipeline.reproduction.final_losses import next_runs, write_ended
from pipeline.reproduction.recorded_ends import RecordedEnd, check_one_text, read_recorded_ends
from pipeline.reproduction.results import write_results
from pipeline.reproduction.results_page import SuiteRuns
from pipeline.reproduction.runner import Runner, status_of_runs
from pipeline.reproduction.suite import Patch
from pipeline.reproduction.task import Task, all_tasks
from pipeline.reproduction.tasks import Tasks, best_rates
from pipeline.training.preparation.preparation import prepared_text
from pipeline.training.signals import Stopped

Key = TypeVar("Key", bound=Hashable)
Runs = Mapping[Any, Sequence[Task]]
"""By their rates, or by the titles of methods."""


def run(arguments: argparse.Namespace) -> None:
    """Run what is not finished of the suite, and write its results; raises UserError where something is wrong."""
    suite = arguments.loaded
    data: Patch | None = None if arguments.shards is None else {"shards": str(arguments.shards)}
    if arguments.text:
        data = {"text": {"files": arguments.text, "heldout_files": arguments.heldout_text or []}}
    directory = arguments.out / f"{arguments.suite}-{arguments.budget}"
    ds_config = BUILT_IN / "ds_configs" / f"{suite.ds_config}.json"
    recorded = read_recorded_ends(arguments.known or [])
    tasks = Tasks(suite, directory, data, ds_config, recorded)
    seeds = range(1, (arguments.seeds or suite.seeds) + 1)

    jobs = arguments.jobs or suite.jobs
    runner = Runner(ds_config, jobs, 1 if arguments.budget == "cpu" else None)
    runner.stop_by_signals(arguments.minutes)

    baseline = suite.methods[suite.baseline].title
    sweeps, trunks = _sharing(tasks, tasks.sweeps())
    _check_recorded(recorded, all_tasks(sweeps))
    sources = tasks.sources(suite.methods.values(), seeds)
    try:
        runner.finish([*_with_their(trunks, all_tasks(sweeps)), *(task for runs in sources.values() for task in runs)])
    except (Stopped, UserError):
        if suite.saved_at == "end":
            write_ended(directory, all_tasks(sweeps), recorded)
        raise
    rates = best_rates(suite, sweeps)
    by_horizon, trunks = _sharing(tasks, {at: tasks.runs_of(suite.methods, seeds, rates, at) for at in suite.horizons})

    def write(place: Path, title: str, found: Mapping[str, Sequence[Task]], of: Mapping[float, Runs]) -> None:
        results = SuiteRuns(suite, title, jobs, rates, sweeps, of, found, recorded)
        if suite.saved_at == "end":
            write_final_losses(place, results)
        else:
            write_results(place, results)

    for methods in by_horizon.values():
        for seed in seeds:
            try:
                _finish_seed(runner, trunks, methods, baseline, seed)
            except (Stopped, UserError):
                if suite.saved_at == "end":
                    # What has ended is there to go on from.
                    write(directory, suite.title, sources, by_horizon)
                raise
            write(directory, suite.title, sources, by_horizon)
    for name, ablation in suite.ablations.items() if arguments.ablations else ():
        others = {other: suite.methods[other] for other in (suite.baseline, *ablation.beside)}
        further = tasks.sources([*others.values(), *ablation.methods.values()], seeds[:1])
        first = suite.horizons[0]
        # What varies a method has that method's learning rate, or rates would be compared.
        like = rates.get(next(iter(ablation.beside), suite.baseline), rates[suite.baseline])
        own = rates | dict.fromkeys(ablation.methods, like)
        shown, trunks = _sharing(tasks, {first: tasks.runs_of(others | ablation.methods, seeds[:1], own, first)})
        # A method may not begin before its source has ended.
        runner.finish([task for runs in further.values() for task in runs])
        _finish_seed(runner, trunks, shown[first], baseline, seeds[0])
        write(directory / name, ablation.title, further, shown)
    print(f"{directory}: results.md")


def _check_recorded(recorded: Mapping[str, RecordedEnd], trials: Sequence[Task]) -> None:
    """Say how many trials were run elsewhere; raises UserError where none was, or where the text here is another one."""
    if not recorded or not trials:
        return
    taken = sum(task.recorded is not None for task in trials)
    if not taken:
        raise UserError(
            f"--known: none of the {len(recorded)} runs there is a trial of this suite; name the ends.jsonl that this suite "
            "wrote, or leave --known out"
        )
    print(f"--known: {taken} of {len(trials)} trials, and {len(recorded) - taken} other runs", flush=True)
    text, prepared = check_one_text(recorded.values(), "--known"), prepared_text(trials[0].recipe)
    if prepared is not None and text not in (None, prepared.manifest.fingerprint):
        raise UserError(
            f"--known: its runs were made with the text {text}, and here it is {prepared.manifest.fingerprint}, so that losses "
            "do not compare; prepare the same text with the same tokenizer, or leave --known out"
        )


def _finish_seed(runner: Runner, trunks: Sequence[Task], methods: Runs, baseline: str, seed: int) -> None:
    """Make the runs with one seed, of each method the longest first."""
    of_seed = {title: [task for task in runs if task.recipe.seed == seed] for title, runs in methods.items()}
    (against,) = of_seed[baseline]
    while due := next_runs(of_seed.values(), against):
        runner.finish(_with_their(trunks, due))


def _sharing(tasks: Tasks, found: Mapping[Key, Runs]) -> tuple[dict[Key, Runs], list[Task]]:
    """The same runs, going on from those of the first steps that several have in common, and these."""
    trunks, sharing = tasks.shared(all_tasks(found))
    named = {task.name: task for task in sharing}
    return {
        key: {name: [named[task.name] for task in of_one] for name, of_one in runs.items()} for key, runs in found.items()
    }, trunks


def _with_their(trunks: Sequence[Task], tasks: Sequence[Task]) -> list[Task]:
    """Some tasks behind those of the trunks that they, or their trunks, go on from, as far as they have not ended."""
    needed, trunk = set(), None
    for task in tasks:
        trunk = None if task.ended else task.trunk
        while trunk is not None:
            needed.add(trunk.name)
            trunk = trunk.trunk
    return [*(trunk for trunk in trunks if trunk.name in needed), *tasks]


work = partial(status_of_runs, run)
"""Run the suite; return the exit status."""
