"""Make one page of a run, or of several runs beside each other, that opens from disk.

python launch/report.py [NAME=]RUN [[NAME=]RUN ...] --out report.html [--baseline NAME] [--png DIR] [--csv DIR]
    [--sentence TEXT] [--layers 0,3] [--heads 0,1]
"""

import argparse
import sys
from pathlib import Path

from data_prep.command import OneSentenceParser
from data_prep.errors import UserError
from data_prep.files import write_atomically
from pipeline.command import status_of
from pipeline.report.attention import SENTENCE, AttentionOptions
from pipeline.report.output import write_figures, write_rows
from pipeline.report.page import build
from pipeline.report.recorded import read_run


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="a run directory; runs of the same name, or whose recipes differ in the seed alone, are one method",
    )
    parser.add_argument("--out", type=Path, required=True, help="the page, an HTML file")
    parser.add_argument(
        "--baseline", metavar="NAME", help="the method that savings are measured against (default: the one from scratch)"
    )
    attention = parser.add_argument_group("attention, in the report of a single run")
    attention.add_argument("--sentence", help=f"what the models read (default: {SENTENCE})")
    attention.add_argument("--layers", type=numbers, metavar="N,N,...", help="of the grown model (default: some of each kind)")
    attention.add_argument("--heads", type=numbers, metavar="N,N,...", help="of the grown model (default: some of each kind)")
    parser.add_argument("--png", type=Path, metavar="DIR", help="also write each figure there, as PNG")
    parser.add_argument("--csv", type=Path, metavar="DIR", help="also write the rows behind each figure there")
    return parser.parse_args()


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that `0,3` spells; raises ValueError, which argparse puts into words, where they are none."""
    return tuple(int(part) for part in text.split(","))


def named(argument: str) -> tuple[str | None, Path]:
    """Return the name and the directory that `[NAME=]RUN` spells."""
    name, equals, path = argument.partition("=")
    # A directory's own name may have an equals sign.
    if not equals or Path(argument).is_dir():
        return None, Path(argument)
    if not name.strip():
        raise UserError(f"{argument}: a name is missing before =; write NAME=RUN, or RUN alone")
    return name.strip(), Path(path)


def run(arguments: argparse.Namespace) -> None:
    """Write the page and what was asked for beside it; raises UserError where the input is wrong."""
    if arguments.out.is_dir():
        raise UserError(f"--out: {arguments.out} is a directory; name an HTML file")
    if not arguments.out.parent.is_dir():
        raise UserError(f"--out: {arguments.out.parent} is no directory; make it, or name another file")
    runs = [(name, read_run(path)) for name, path in map(named, arguments.runs)]
    options = AttentionOptions(arguments.sentence or SENTENCE, arguments.layers, arguments.heads)
    if len(runs) > 1 and (arguments.sentence, arguments.layers, arguments.heads) != (None, None, None):
        raise UserError("--sentence, --layers, --heads: attention is shown in the report of a single run; name one run alone")
    page = build(runs, arguments.baseline, options)
    if arguments.png is not None:
        write_figures(arguments.png, page.plots)
    if arguments.csv is not None:
        write_rows(arguments.csv, page.plots)
    write_atomically(arguments.out, page.html)
    print(f"{arguments.out}: {len(page.plots)} figures")


def main() -> int:
    """Do what the command line asks; return the exit status."""
    arguments = parse()
    return status_of(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
