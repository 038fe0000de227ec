"""launch/reproduce.py: the runs of a suite, and the results of them."""

import argparse
import signal
import sys
from pathlib import Path

from pipeline.command import status_of
from pipeline.reproduction.results import Comparison, write_results
from pipeline.reproduction.runner import Runner
from pipeline.reproduction.tasks import Tasks, best_rate
from pipeline.training.signals import EXIT_STOPPED, Stopped

_DS_CONFIGS = Path(__file__).parents[2] / "ds_configs"


def run(arguments: argparse.Namespace) -> None:
    """Run what is not finished of the suite, and write its results; raises UserError where something is wrong."""
    suite = arguments.loaded
    text = None
    if arguments.text:
        text = {"files": arguments.text, "heldout_files": arguments.heldout_text or []}
    directory = arguments.out / f"{arguments.suite}-{arguments.budget}"
    tasks = Tasks(suite, directory, text)
    seeds = range(1, (arguments.seeds or suite.seeds) + 1)

    jobs = arguments.jobs or suite.jobs
    threads = 1 if arguments.budget == "cpu" else None
    runner = Runner(_DS_CONFIGS / f"{suite.ds_config}.json", jobs, threads, lambda line: print(line, flush=True))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, runner.stop)

    sweep = tasks.sweep()
    swept = [task for runs in sweep.values() for task in runs]
    sources = tasks.sources(suite.methods.values(), seeds)
    runner.finish([*swept, *(task for runs in sources.values() for task in runs)])
    rate = best_rate(suite, sweep)
    baseline = suite.methods[suite.baseline].title
    methods = tasks.runs_of(suite.methods, seeds, rate)
    for of_seed in zip(*methods.values(), strict=True):
        runner.finish(of_seed)
        write_results(directory, Comparison(suite.title, jobs, rate, sweep, sources, methods, baseline))
    for name, ablation in suite.ablations.items() if arguments.ablations else ():
        others = [suite.methods[other] for other in (suite.baseline, *ablation.beside)]
        further = tasks.sources([*others, *ablation.methods.values()], seeds[:1])
        ablated = tasks.runs_of(ablation.methods, seeds[:1], rate)
        # A method may not begin before its source has ended.
        for begun in (further, ablated):
            runner.finish([task for runs in begun.values() for task in runs])
        beside = {other.title for other in others}
        shown = {title: runs[:1] for title, runs in methods.items() if title in beside} | ablated
        write_results(directory / name, Comparison(ablation.title, jobs, rate, sweep, further, shown, baseline))
    print(f"{directory}: results.md, report.html, figures/")


def work(arguments: argparse.Namespace) -> int:
    """Run the suite; return the exit status."""
    try:
        return status_of(lambda: run(arguments))
    except Stopped:
        print("stopped; start the same command again to go on", file=sys.stderr)
        return EXIT_STOPPED
