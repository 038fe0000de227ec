"""Numbers in words, and counts of many kinds cut down to what a page can hold."""

from collections.abc import Mapping
from dataclasses import dataclass


def counted(number: int, noun: str) -> str:
    """Return a number of things, a noun that takes an s, in words."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(part: float, whole: float) -> str:
    """Return a share in percent; one that is not 0, or not all, does not read as if it were."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.05:
        return "<\N{NO-BREAK SPACE}0.1\N{NO-BREAK SPACE}%"
    return ">\N{NO-BREAK SPACE}99.9\N{NO-BREAK SPACE}%" if 99.95 <= share < 100 else f"{share:.1f}\N{NO-BREAK SPACE}%"


def ratio(part: float, whole: float) -> float:
    """Return a share, 0 of nothing."""
    return part / whole if whole else 0.0


@dataclass(frozen=True)
class Top:
    """The most frequent of many counts, and the rest summed."""

    named: list[tuple[str, int]]
    """Descending."""
    kinds: int
    """How many the rest are."""
    rest: int

    @property
    def whole(self) -> int:
        """The sum of all."""
        return sum(count for _, count in self.named) + self.rest


def top(counts: Mapping[str, int], most: int) -> Top:
    """Return the `most` frequent of many counts; of equal ones the first by name."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    # One more is named rather than called a rest of one.
    cut = most if len(ordered) > most + 1 else len(ordered)
    return Top(ordered[:cut], len(ordered) - cut, sum(count for _, count in ordered[cut:]))
