"""What the next step reads, made on a thread while this one runs."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Ahead(Generic[Request, Result]):
    """Does the work of one request ahead, on one thread from the first request to `close`."""

    def __init__(self, work: Callable[[Request], Result]) -> None:
        self._work = work
        self._requests: SimpleQueue[tuple[Request, Future[Result]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._begun: tuple[Request, Future[Result]] | None = None

    def begin(self, request: Request) -> None:
        """Begin on a request that is likely to come next."""
        self.wait()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="next batch")
            self._thread.start()
        self._begun = request, Future()
        self._requests.put(self._begun)

    def take(self, request: Request) -> Result:
        """Return the work of a request, started or not; raises here what it raised."""
        self.wait()
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != request:
            return self._work(request)
        return begun[1].result()

    def wait(self) -> None:
        """Wait until no work runs."""
        if self._begun is not None:
            wait([self._begun[1]])

    def close(self) -> None:
        """Wait for the work that runs, and end the thread; what was started can still be taken."""
        if self._thread is not None:
            self._requests.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (begun := self._requests.get()) is not None:
            request, future = begun
            try:
                future.set_result(self._work(request))
            except BaseException as error:
                future.set_exception(error)
            # A batch is not to be kept until the next one is made.
            del begun, future
