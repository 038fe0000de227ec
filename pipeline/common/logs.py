"""What a command says while it works: Python's logging, each message a line on standard output."""

import logging
import sys

from tqdm import tqdm

_OWN = ("data_prep", "pipeline")
"""The packages whose messages are shown."""


def show_messages(*, first: bool) -> None:
    """Print the messages of the project's loggers from now on; of several processes, only the `first` prints any.

    A warning begins with "warning: ". Calling it again replaces what an earlier call set.
    """
    handler = _LineHandler()
    handler.setFormatter(_LineFormatter())
    for name in _OWN:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO if first else logging.CRITICAL)


class _LineFormatter(logging.Formatter):
    """The message alone, after the word "warning" where it is one."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return prefix + super().format(record)


class _LineHandler(logging.Handler):
    """Prints above the progress bar where there is one, to what standard output is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        # Not caught: whoever reads the output may have gone, which the command handles like any other broken pipe.
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()
