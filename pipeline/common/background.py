"""Work that goes on in a thread while the main one does something else."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from pipeline.common.heartbeat import beat, watched_by

Result = TypeVar("Result")

_POLL_SECONDS = 1.0


class Background(Generic[Result]):
    """Work in a thread, which ends with the process where that ends before it.

    Its heartbeats reach nobody but who waits for it: a main thread that stands still is not well because its threads are.
    """

    def __init__(self, work: Callable[[], Result]) -> None:
        self._future: Future[Result] = Future()
        self._beats = 0
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run, work), daemon=True, name="background").start()

    def result(self) -> Result:
        """Wait for the work; return what it returned, or raise what it raised."""
        self.wait()
        return self._future.result()

    @property
    def failed(self) -> bool:
        """Whether it has ended in an error."""
        return self._future.done() and self._future.exception() is not None

    def wait(self) -> None:
        """Wait for the work, however it ends; its heartbeats meanwhile are those of the thread that waits."""
        seen = -1
        while not self._future.done():
            if self._beats != seen:
                seen = self._beats
                beat()
            wait([self._future], timeout=_POLL_SECONDS)

    def _run(self, work: Callable[[], Result]) -> None:
        with watched_by(self._count):
            try:
                self._future.set_result(work())
            except BaseException as error:
                self._future.set_exception(error)

    def _count(self) -> None:
        self._beats += 1
