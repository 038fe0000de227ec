"""The messages of a command at work: Python's logging, each message a line on standard output."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_OWN = ("data_prep", "pipeline")
"""The packages whose messages are shown."""
RANK_VARIABLES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
"""Where launchers write a process's number."""


def is_first_process() -> bool:
    """Whether no launcher has given this process a number above 0."""
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)


def show_messages(*, first: bool, on_stderr: bool = False, reworded: Callable[[str], str] = str) -> None:
    """Print the messages of the project's loggers from now on; of several processes, only the `first` prints any.

    A warning begins with "warning: ". A command whose result is its standard output has them `on_stderr`. Each is printed as
    `reworded` returns it. Calling it again replaces what an earlier call set.
    """
    handler = _LineHandler(on_stderr=on_stderr)
    handler.setFormatter(_LineFormatter(reworded))
    for name in _OWN:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO if first else logging.CRITICAL)


@contextmanager
def without_messages() -> Iterator[None]:
    """Show no message within the block."""
    loggers = [logging.getLogger(name) for name in _OWN]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _LineFormatter(logging.Formatter):
    """The message alone, after the word "warning" where it is one."""

    def __init__(self, reworded: Callable[[str], str] = str) -> None:
        super().__init__()
        self._reworded = reworded

    def format(self, record: logging.LogRecord) -> str:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return prefix + self._reworded(super().format(record))


class _LineHandler(logging.Handler):
    """Prints above the progress bar where there is one, to what standard output or error is at that moment."""

    def __init__(self, *, on_stderr: bool) -> None:
        super().__init__()
        self._on_stderr = on_stderr

    def emit(self, record: logging.LogRecord) -> None:
        file = sys.stderr if self._on_stderr else sys.stdout
        # Not caught: whoever reads the output may have gone, which the command handles like any other broken pipe.
        tqdm.write(self.format(record), file=file)
        file.flush()
