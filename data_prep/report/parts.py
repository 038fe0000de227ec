"""What pages are made of, before they are HTML."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """A bar from one share to another, both in [0, 1], that shows the number in the cell before it."""

    begin: float
    stop: float
    lost: bool = False
    """Whether it shows what went, rather than what is there."""


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
