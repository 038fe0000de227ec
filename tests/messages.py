"""The project's messages, taken by a test while they are logged."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pipeline.common.logs import _LineFormatter


class _Taking(logging.Handler):
    def __init__(self, take: Callable[[str], object]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(_LineFormatter().format(record))


@contextmanager
def taken_by(take: Callable[[str], object], of: str = "data_prep") -> Iterator[None]:
    """Call `take` with each message of a logger, and of those below it, in the thread that logs it."""
    logger, handler = logging.getLogger(of), _Taking(take)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Yield the messages of all of the project's loggers within the block, as they are printed; the list grows."""
    lines: list[str] = []
    with ExitStack() as stack:
        for name in ("data_prep", "pipeline"):
            stack.enter_context(taken_by(lines.append, of=name))
        yield lines
