"""Work that goes on in a thread while the main one does something else."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

Result = TypeVar("Result")
Tick = Callable[[], None]

_POLL_SECONDS = 1.0


class Beside(Generic[Result]):
    """Work in a thread, which ends with the process where that ends before it."""

    def __init__(self, work: Callable[[Tick], Result]) -> None:
        """`work` is given what it calls whenever it has come further."""
        self._future: Future[Result] = Future()
        self._ticks = 0
        threading.Thread(target=self._run, args=(work,), daemon=True, name="beside").start()

    def result(self, beat: Tick = lambda: None) -> Result:
        """Wait for the work, `beat` called while it comes further; return what it returned, or raise what it raised."""
        self.wait(beat)
        return self._future.result()

    @property
    def failed(self) -> bool:
        """Whether it has ended in an error."""
        return self._future.done() and self._future.exception() is not None

    def wait(self, beat: Tick = lambda: None) -> None:
        """Wait for the work, `beat` called while it comes further, whatever comes of it."""
        seen = -1
        while not self._future.done():
            if self._ticks != seen:
                seen = self._ticks
                beat()
            wait([self._future], timeout=_POLL_SECONDS)

    def _run(self, work: Callable[[Tick], Result]) -> None:
        try:
            self._future.set_result(work(self._tick))
        except BaseException as error:
            self._future.set_exception(error)

    def _tick(self) -> None:
        self._ticks += 1
