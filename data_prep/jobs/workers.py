"""Processes that share a job: one alone, or MPI's ranks; they meet at barriers and share files, nothing else."""

import heapq
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.common.errors import UserError

_LAUNCHER_READS_SECONDS = 0.5
"""How long a rank waits before it ends all ranks, so that the launcher passes on what it has printed."""

_POLL_SECONDS = 0.01
_LAUNCHERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE")


class Sized(Protocol):
    """Something whose size says how long it takes."""

    @property
    def size(self) -> int:
        """In any unit."""
        ...


Task = TypeVar("Task", bound=Sized)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Alone:
    """The only process."""

    rank: int = 0
    count: int = 1

    def barrier(self) -> None:
        """Wait for nobody."""

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Return what `make` returns in the first process: this one."""
        return make()

    def abort(self, status: int) -> None:
        """End every other process: there is none."""


class MPIRanks:
    """The ranks of MPI's world."""

    def __init__(self) -> None:
        from mpi4py import MPI  # only where the processes were started with it

        self._world = MPI.COMM_WORLD
        self.rank, self.count = self._world.rank, self._world.size

    def barrier(self) -> None:
        """Wait for every rank, asleep: MPI's own barrier would keep a core busy that others could use."""
        request = self._world.Ibarrier()
        while not request.Test():
            time.sleep(_POLL_SECONDS)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Return what `make` returns in the first rank, which alone calls it; the others wait for it asleep.

        What one rank wrote another may not see at once on a network's file system, so what decides the way is sent.
        """
        value = make() if self.rank == 0 else None
        self.barrier()
        return self._world.bcast(value)

    def abort(self, status: int) -> None:
        """End every rank, and the run with `status`."""
        # The launcher stops reading what ranks print as soon as one of them aborts.
        time.sleep(_LAUNCHER_READS_SECONDS)
        self._world.Abort(status)


Workers = Alone | MPIRanks


def started_workers() -> Workers:
    """Return the processes that `mpiexec -n N python -m mpi4py -m data_prep` started, or this one.

    Raises UserError where a launcher started several that would not know of each other.
    """
    if "mpi4py" in sys.modules:
        return MPIRanks()
    if started_by_mpi():
        raise UserError(
            "python -m data_prep: a launcher started several processes, which know of each other only when started as "
            "python -m mpi4py -m data_prep"
        )
    return Alone()


def started_by_mpi() -> bool:
    """Whether an MPI launcher started this process as one of several."""
    return any(int(os.environ.get(name, "1")) > 1 for name in _LAUNCHERS)


def on_one_node() -> bool:
    """Whether all processes read the same files: else one that leaves over its own would have the others wait for it."""
    if "WORLD_SIZE" in os.environ:
        here = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE"))
        return os.environ["WORLD_SIZE"] in ("1", here)
    return not started_by_mpi()


def share(items: Sequence[Task], rank: int, count: int) -> list[Task]:
    """Return what of `items` is `rank`'s among `count`, largest first: each goes where the least has gone so far."""
    loads = [(0, other) for other in range(count)]
    mine = []
    for item in sorted(items, key=lambda item: -item.size):
        load, least = loads[0]
        heapq.heapreplace(loads, (load + item.size, least))
        if least == rank:
            mine.append(item)
    return mine
