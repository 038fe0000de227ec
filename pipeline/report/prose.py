"""The prose of pages and cards: macros of templates/prose, one paragraph a line."""

from functools import cache
from typing import Any

import jinja2

from data_prep.report.html import environment
from data_prep.report.numbers import counted
from pipeline.report.figures import amount
from pipeline.report.savings import percent
from pipeline.runs.steps import missing_words


def templates() -> jinja2.Environment:
    """Return the templates of reports, with filters that write numbers with their units."""
    found = environment("pipeline.report")
    found.filters |= {quantity: (lambda value, of=quantity: amount(of, value)) for quantity in ("flops", "tokens", "seconds")}
    found.filters |= {"counted": counted, "number": "{:,}".format, "saving": percent, "missing": missing_words}
    return found


@cache
def _macros(file: str) -> Any:
    return templates().get_template(f"prose/{file}.txt").module


def lines(file: str, kind: str, *facts: Any, **more: Any) -> list[str]:
    """Return the paragraphs of a macro: `kind` in templates/prose/FILE.txt, called with what it says."""
    written = getattr(_macros(file), kind)(*facts, **more)
    return [line.strip(" ") for line in written.split("\n") if line.strip(" ")]


def text(file: str, kind: str, *facts: Any, **more: Any) -> str:
    """Return the paragraphs of a macro as one."""
    return " ".join(lines(file, kind, *facts, **more))
