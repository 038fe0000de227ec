"""Work that goes on in a thread while the main one does something else."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
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
        seen = -1
        while True:
            if self._ticks != seen:
                seen = self._ticks
                beat()
            try:
                return self._future.result(timeout=_POLL_SECONDS)
            except TimeoutError:
                if self._future.done():
                    raise

    @property
    def failed(self) -> bool:
        """Whether it has ended in an error."""
        return self._future.done() and self._future.exception() is not None

    def wait(self) -> None:
        """Wait for the work, whatever comes of it."""
        self._future.exception()

    def _run(self, work: Callable[[Tick], Result]) -> None:
        try:
            self._future.set_result(work(self._tick))
        except BaseException as error:
            self._future.set_exception(error)

    def _tick(self) -> None:
        self._ticks += 1
