"""Run the papers' comparison: every method on the same data, order, batch and schedule, from sources to a report.

python launch/reproduce.py --suite gpt --budget cpu [--text 'books/*.jsonl.zst' --heldout_text 'heldout/*.jsonl.zst']
"""

import argparse
import signal
import sys
from pathlib import Path

from data_prep.command import OneSentenceParser
from data_prep.errors import UserError
from pipeline.command import status_of
from pipeline.reproduction.results import Comparison, write_results
from pipeline.reproduction.runner import Runner
from pipeline.reproduction.suite import load_suite
from pipeline.reproduction.tasks import Tasks, best_rate
from pipeline.training.signals import EXIT_STOPPED, Stopped

_SUITES = Path(__file__).parent / "suites"
_DS_CONFIGS = Path(__file__).parents[1] / "ds_configs"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=["gpt", "bert"], required=True, help="which comparison")
    parser.add_argument("--budget", choices=["cpu", "gpu"], required=True, help="its sizes: launch/suites/SUITE_BUDGET.yaml")
    parser.add_argument("--seeds", type=int, help="final runs of each method (default: the suite's)")
    parser.add_argument("--ablations", action="store_true", help="also run the ablations of a cpu suite, with the first seed")
    parser.add_argument("--text", nargs="+", metavar="GLOB", help="documents (default: those inside the Python environment)")
    parser.add_argument("--heldout_text", nargs="+", metavar="GLOB", help="held-out documents (default: a share of the text)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: the suite's)")
    out = "runs, and in SUITE-BUDGET/ results.md, report.html and figures/ (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help=out)
    arguments = parser.parse_args()
    for name in ("seeds", "jobs"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)} is not above 0")
    if arguments.heldout_text and not arguments.text:
        parser.error("--heldout_text goes with --text")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    """Run what is not finished of the suite, and write its results; raises UserError where something is wrong."""
    suite_file = _SUITES / f"{arguments.suite}_{arguments.budget}.yaml"
    suite = load_suite(suite_file)
    if arguments.ablations and not suite.ablations:
        raise UserError(f"{suite_file}: the suite has no ablations; leave --ablations out")
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


def main() -> int:
    """Do what the command line asks; return the exit status."""
    arguments = parse()
    try:
        return status_of(lambda: run(arguments))
    except Stopped:
        print("stopped; start the same command again to go on", file=sys.stderr)
        return EXIT_STOPPED


if __name__ == "__main__":
    sys.exit(main())
