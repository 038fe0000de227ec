"""What a person sees while something long goes on: a bar on a terminal, else a message at a steady interval."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from tqdm import tqdm

from pipeline.common.logs import is_first_process

logger = logging.getLogger(__name__)

LINE_SECONDS = 15.0
"""Between two lines of one operation in a log."""
_BAR_SECONDS = 1.0
"""Between two looks at a bar, and before the first: what is over by then shows none."""

BYTES = "B"
"""The unit of amounts that are bytes."""

Advance = Callable[[int], object]
"""Called with how much of an operation was done since the last call."""


class Meter:
    """One operation's progress, shown while the block runs: what is done of all, the time it took, the time that is left.

    A thread shows it, so that an operation in which nothing can be counted for minutes is still seen to go on.
    """

    def __init__(self, name: str, total: int = 0, unit: str = BYTES, *, shown: bool | None = None) -> None:
        """`total` is in `unit`, 0 where it is not known. By default the first process alone shows it."""
        self.note = ""
        """What else a line says of how far the operation is."""
        self._name, self._total, self._unit = name, total, unit
        self._done = self._skipped = 0
        self._shown = is_first_process() if shown is None else shown
        self._logged = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._bar: tqdm | None = None

    def advance(self, amount: int) -> None:
        """Count `amount` as done."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(amount)

    def skip(self, amount: int) -> None:
        """Count `amount` as done by an earlier start: it says nothing of the time that the rest takes."""
        self._skipped += amount
        self.advance(amount)

    @contextmanager
    def item(self, size: int) -> Iterator[Advance]:
        """Yield what an item of the operation counts by: never more than its `size`, and all of it behind the block."""
        left = size

        def advance(amount: int) -> None:
            nonlocal left
            amount = min(amount, left)
            left -= amount
            self.advance(amount)

        yield advance
        advance(left)

    def __enter__(self) -> "Meter":
        self._began = time.monotonic()
        if self._shown:
            if sys.stdout.isatty():
                self._bar = tqdm(
                    desc=self._name, total=self._total or None, unit=self._unit, unit_scale=True, delay=_BAR_SECONDS,
                    dynamic_ncols=True, leave=False, file=sys.stdout,
                )  # fmt: skip
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if not self._shown:
            return
        self._over.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()
        elif self._logged and kind is None:
            logger.info("%s: done in %s", self._name, duration(time.monotonic() - self._began))

    def _show(self) -> None:
        while not self._over.wait(LINE_SECONDS if self._bar is None else _BAR_SECONDS):
            try:
                if self._bar is None:
                    logger.info(self._line())
                    self._logged = True
                elif time.monotonic() - self._began > _BAR_SECONDS:
                    self._bar.set_postfix_str(self.note)
            except OSError:
                # Nobody reads any more: what the command prints next meets that too, and there it is handled.
                return

    def _line(self) -> str:
        """As a log has it: 'NAME: 45 %, 1.20 GB of 2.67 GB, 0:35 so far, 0:43 left'."""
        elapsed, done = time.monotonic() - self._began, min(self._done, self._total)
        unit = "" if self._unit == BYTES else f" {self._unit}"
        facts = [f"{duration(elapsed)} so far"]
        if self._total:
            facts = [f"{100 * done // self._total} %", f"{self._amount(done)} of {self._amount(self._total)}{unit}", *facts]
            worked = done - self._skipped
            if worked > 0 and done < self._total:
                facts.append(f"{duration(elapsed * (self._total - done) / worked)} left")
        return f"{self._name}: {', '.join(filter(None, [*facts, self.note]))}"

    def _amount(self, amount: int) -> str:
        if self._unit != BYTES:
            return f"{amount:,}"
        number = tqdm.format_sizeof(amount)
        return f"{number.rstrip('kMGTPE')} {number.lstrip('0123456789.')}B"


def duration(seconds: float) -> str:
    """Return a time as minutes and seconds, as hours, or as days, whichever it needs."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
