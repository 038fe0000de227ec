"""Work of the first rank that goes on while its main thread does something else."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pipeline.training import distributed

Result = TypeVar("Result")


def begin_on_first_rank(work: Callable[[], Result]) -> Future[Result] | None:
    """Begin `work` on rank 0, in a thread of its own, and return where its result will be; None on the other ranks.

    It must not use the ranks' collectives, nor an accelerator: a thread begins on the first device of its node.
    """
    if distributed.rank() > 0:
        return None
    executor = ThreadPoolExecutor(max_workers=1)
    future = executor.submit(work)
    executor.shutdown(wait=False)
    return future
