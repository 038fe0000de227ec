"""Work of the first rank that goes on while its main thread does something else."""

from collections.abc import Callable
from typing import TypeVar

from pipeline.common.background import Background
from pipeline.training import distributed

Result = TypeVar("Result")


def begin_on_first_rank(work: Callable[[], Result]) -> Background[Result] | None:
    """Begin `work` on rank 0, in a thread of its own; return where its result will be, None on the other ranks.

    It must not use the ranks' collectives, nor an accelerator: a thread begins on the first device of its node.
    """
    return None if distributed.rank() > 0 else Background(work)
