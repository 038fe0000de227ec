"""The project's messages, taken by a test while they are logged."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Taking(logging.Handler):
    def __init__(self, take: Callable[[str], object]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record.getMessage())


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
