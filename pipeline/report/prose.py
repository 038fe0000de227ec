"""The prose of pages and cards: macros of templates, one paragraph a line; tables of Markdown, and shares as their cells."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jinja2

from data_prep.report.html import environment
from data_prep.report.numbers import counted
from pipeline.report.figures import amount
from pipeline.report.savings import percent
from pipeline.runs.steps import missing_words


def templates(package: str = "pipeline.report", **filters: Callable[..., object]) -> jinja2.Environment:
    """Return the templates of a package, with `filters` and those that write numbers with their units."""
    found = environment(package)
    found.filters |= {quantity: partial(amount, quantity) for quantity in ("flops", "tokens", "seconds")}
    found.filters |= {"counted": counted, "number": "{:,}".format, "saving": percent, "missing": missing_words} | filters
    return found


_REPORT = templates()


def paragraphs(of: jinja2.Environment, file: str, macro: str, *facts: Any) -> list[str]:
    """Return what a macro of a file makes of facts; empty lines are left out."""
    written: str = getattr(of.get_template(file).module, macro)(*facts)
    return [line.strip(" ") for line in written.split("\n") if line.strip(" ")]


def lines(file: str, kind: str, *facts: Any) -> list[str]:
    """Return the paragraphs of a macro: `kind` in templates/prose/FILE.txt, called with what it says."""
    return paragraphs(_REPORT, f"prose/{file}.txt", kind, *facts)


def text(file: str, kind: str, *facts: Any) -> str:
    """Return the paragraphs of a macro as one."""
    return " ".join(lines(file, kind, *facts))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: Iterable[int] = (0,)) -> list[str]:
    """Return the lines of a table; columns of `words`, counted from 0, stand to the left, all others to the right."""
    words = frozenset(words)
    bars = ["---" if number in words else "---:" for number in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, bars, *rows)]


def whole_percent(share: float | None) -> str:
    """Return a share in whole percent; None is one that is not known."""
    return "not known" if share is None else f"{100 * share:.0f} %".replace("-", "−")
