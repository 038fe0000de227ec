"""What the next step reads, made on a thread while this one runs."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Ahead(Generic[Request, Result]):
    """Does the work of one request ahead, on one thread from the first request to `close`."""

    def __init__(self, work: Callable[[Request], Result]) -> None:
        self._work = work
        self._thread = ThreadPoolExecutor(1, "next batch")
        self._started: tuple[Request, Future[Result]] | None = None

    def begin(self, request: Request) -> None:
        """Begin on a request that is likely to come next."""
        self.wait()
        self._started = request, self._thread.submit(self._work, request)

    def take(self, request: Request) -> Result:
        """Return the work of a request, started or not; raises here what it raised."""
        self.wait()
        started, self._started = self._started, None
        if started is None or started[0] != request:
            return self._work(request)
        return started[1].result()

    def wait(self) -> None:
        """Wait until no work runs."""
        if self._started is not None:
            wait([self._started[1]])

    def close(self) -> None:
        """Wait for the work that runs, and end the thread; what was started can still be taken."""
        self._thread.shutdown()
