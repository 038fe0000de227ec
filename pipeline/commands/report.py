"""One page of a run, or of several beside each other."""

import argparse
from functools import partial
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically
from pipeline.common.quiet import status_of
from pipeline.report.attention.options import SENTENCE, AttentionOptions
from pipeline.report.figures import write_figures, write_rows
from pipeline.report.page import build
from pipeline.report.recorded import read_run


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


work = partial(status_of, run)
"""Write the page; return the exit status."""
