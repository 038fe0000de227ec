"""What the next step reads, made on a thread while this one runs."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Ahead(Generic[Request, Result]):
    """Does the work of one request ahead; one thread at a time, which ends with its request."""

    def __init__(self, work: Callable[[Request], Result]) -> None:
        self._work = work
        self._begun: tuple[Request, threading.Thread] | None = None
        self._outcome: tuple[Result | None, BaseException | None] = None, None

    def begin(self, request: Request) -> None:
        """Begin on a request that is likely to come next."""
        self.wait()
        thread = threading.Thread(target=self._run, args=(request,), daemon=True, name="next batch")
        self._begun = request, thread
        thread.start()

    def take(self, request: Request) -> Result:
        """Return the work of a request, begun or not; raises here what it raised."""
        self.wait()
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != request:
            return self._work(request)
        (result, error), self._outcome = self._outcome, (None, None)
        if error is not None:
            raise error
        return result

    def wait(self) -> None:
        """Wait until nothing runs."""
        if self._begun is not None:
            self._begun[1].join()

    def _run(self, request: Request) -> None:
        try:
            self._outcome = self._work(request), None
        except BaseException as error:
            self._outcome = None, error
