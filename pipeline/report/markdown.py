"""Tables of Markdown, and shares as their cells."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: Iterable[int] = (0,)) -> list[str]:
    """Return the lines of a table; columns of `words`, counted from 0, stand to the left, all others to the right."""
    words = frozenset(words)
    bars = ["---" if number in words else "---:" for number in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, bars, *rows)]


def whole_percent(share: float | None) -> str:
    """Return a share in whole percent; None is one that is not known."""
    return "not known" if share is None else f"{100 * share:.0f} %".replace("-", "−")
