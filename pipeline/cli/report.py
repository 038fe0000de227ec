"""Make one page of a run, or of several runs beside each other, that opens from disk.

growth-report [NAME=]RUN [[NAME=]RUN ...] --out report.html [--baseline NAME] [--png DIR] [--csv DIR]
    [--sentence TEXT] [--layers 0,3] [--heads 0,1]
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from pipeline.common.starting import start


def parse() -> argparse.Namespace:
    """Read the command line."""
    from pipeline.common.command import OneSentenceParser
    from pipeline.report.attention.options import SENTENCE

    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="a run directory; runs of the same name, or whose recipes differ in the seed alone, are one method",
    )
    add("--out", type=Path, required=True, help="the page, an HTML file")
    add("--baseline", metavar="NAME", help="the method that savings are measured against (default: the one from scratch)")
    attention = parser.add_argument_group("attention, in the report of a single run")
    attention.add_argument("--sentence", help=f"what the models read (default: {SENTENCE})")
    attention.add_argument("--layers", type=numbers, metavar="N,N,...", help="of the grown model (default: some of each kind)")
    attention.add_argument("--heads", type=numbers, metavar="N,N,...", help="of the grown model (default: some of each kind)")
    add("--png", type=Path, metavar="DIR", help="also write each figure there, as PNG")
    add("--csv", type=Path, metavar="DIR", help="also write the rows behind each figure there")
    return parser.parse_args()


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that `0,3` spells; raises ValueError, which argparse puts into words, where they are none."""
    return tuple(int(part) for part in text.split(","))


main = partial(start, parse, "pipeline.commands.report")
"""Do what the command line asks; return the exit status."""

if __name__ == "__main__":
    sys.exit(main())
