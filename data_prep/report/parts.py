"""What pages are made of, before they are HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.report.numbers import percent, ratio


@dataclass(frozen=True)
class Bar:
    """A bar from one share to another, both in [0, 1], that shows the number in the cell before it."""

    begin: float
    stop: float
    lost: bool = False
    """Whether it shows what went, rather than what is there."""


def share(part: float, whole: float) -> tuple[str, Bar]:
    """Return the cells of a share: in percent, and as a bar."""
    return percent(part, whole), Bar(0, ratio(part, whole))


@dataclass(frozen=True)
class Grid:
    """A table."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Bar]]
    words: frozenset[int] = frozenset()
    """Columns, counted from 0, that hold words and not numbers."""
    notes: Sequence[str] = ()
    """What stands below in small print."""


@dataclass(frozen=True)
class Tile:
    """One main figure at the head of the page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the page: its name, its title, and what its template shows."""

    name: str
    title: str
    content: dict[str, Any]
    template: str = ""
    """A file in templates/sections, without its ending; the section's name where it is empty."""


def table(title: str, rows: Sequence[dict[str, str]], words: Sequence[str] = (), notes: Sequence[str] = ()) -> Grid:
    """Return a table of rows that all have the keys of the first, which are its head; `words` are columns that hold words."""
    head = list(rows[0])
    columns = frozenset(number for number, name in enumerate(head) if name in words)
    return Grid(title, head, [list(row.values()) for row in rows], columns, notes)
