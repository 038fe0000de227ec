"""The sign of life that long work gives, and who takes note of it: the watchdog of a run, a test, nobody."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OnBeat = Callable[[], None]


def _nobody() -> None:
    """Take no note."""


_on_beat: ContextVar[OnBeat] = ContextVar("on_beat", default=_nobody)


def beat() -> None:
    """Say that the work has come further; whatever may take longer than some seconds does so again and again."""
    _on_beat.get()()


@contextmanager
def watched_by(on_beat: OnBeat) -> Iterator[None]:
    """Call `on_beat` at each beat within the block, in this thread; a thread started within it has a context of its own."""
    token = _on_beat.set(on_beat)
    try:
        yield
    finally:
        _on_beat.reset(token)
