"""Run the papers' comparison: every method on the same data, order, batch and schedule, from sources to a report.

growth-reproduce --suite gpt --budget cpu [--text 'books/*.jsonl.zst' --heldout_text 'heldout/*.jsonl.zst']
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from pipeline.common.built_in import BUILT_IN
from pipeline.common.starting import start

_MOST = 1_000_000
_SUITES = BUILT_IN / "launch" / "suites"


def parse() -> argparse.Namespace:
    """Read the command line and the suite that it names; raises UserError."""
    from pipeline.common.command import OneSentenceParser
    from pipeline.common.errors import UserError
    from pipeline.reproduction.suite import load_suite

    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    suites = sorted({path.stem.rpartition("_")[0] for path in _SUITES.glob("*.yaml")})
    add("--suite", choices=suites, required=True, help="which comparison")
    add("--budget", choices=["cpu", "gpu"], required=True, help="its sizes: launch/suites/SUITE_BUDGET.yaml")
    add("--seeds", type=int, help="final runs of each method (default: the suite's)")
    add("--ablations", action="store_true", help="also run the ablations of a cpu suite, with the first seed")
    add("--text", nargs="+", metavar="GLOB", help="documents (default: those inside the Python environment)")
    add("--heldout_text", nargs="+", metavar="GLOB", help="held-out documents (default: a share of the text)")
    add("--shards", type=Path, metavar="DIR", help="prepared shards, with their tokenizer, in place of text")
    add(
        "--minutes",
        type=float,
        help="have the runs save and stop after so many minutes; the same command then continues",
    )
    known = "ends.jsonl of the same suite, made elsewhere: the runs in it are not run again"
    add("--known", type=Path, nargs="+", metavar="FILE", help=known)
    add("--jobs", type=int, help="runs at a time (default: the suite's)")
    out = "runs, and in SUITE-BUDGET/ results.md, report.html and figures/ (default: %(default)s)"
    add("--out", type=Path, default=Path("runs/reproduce"), help=out)
    arguments = parser.parse_args()
    for name in ("seeds", "jobs", "minutes"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < _MOST:
            parser.error(f"--{name} {value} is not above 0 and below {_MOST:,}")
    if arguments.text and arguments.shards is not None:
        parser.error("--text and --shards are two corpora; leave one out")
    if arguments.heldout_text and not arguments.text:
        parser.error("--heldout_text goes with --text")
    suite_file = _SUITES / f"{arguments.suite}_{arguments.budget}.yaml"
    if not suite_file.exists():
        parser.error(f"--suite {arguments.suite} has no sizes for --budget {arguments.budget}; name the other one")
    arguments.loaded = load_suite(suite_file)
    if arguments.known and arguments.loaded.saved_at != "end":
        raise UserError(
            f"--known: goes with suites whose runs compare by their ends, and {suite_file} is not such a suite; leave it out"
        )
    if arguments.ablations and not arguments.loaded.ablations:
        raise UserError(f"{suite_file}: the suite has no ablations; leave --ablations out")
    return arguments


main = partial(start, parse, "pipeline.commands.reproduce")
"""Do what the command line asks; return the exit status."""

if __name__ == "__main__":
    sys.exit(main())
