"""Ranks: joining them, letting one decide for all, adding up what each has seen."""

import json
import logging
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed
from deepspeed.accelerator import get_accelerator
from torch.distributed.elastic.utils.store import synchronize

from data_prep.jobs.workers import started_by_mpi
from pipeline.common.background import Background
from pipeline.common.command import refusal
from pipeline.common.errors import UserError
from pipeline.deepspeed.ranks import discover_mpi, init_distributed

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

TIMEOUT = timedelta(hours=12)
"""One rank prepares the data while the others wait."""

_STEP_TASKS = "SLURM_STEP_NUM_TASKS"
"""Set in what `srun` starts, and not in a batch script."""


class Seat(NamedTuple):
    """Where a rank computes: its node, its number there, the kind of the node's devices and how many it sees."""

    node: str
    local_rank: int
    kind: str
    devices: int


def rank() -> int:
    """This process's rank; 0 where nothing was launched."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of ranks; 1 where nothing was launched."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Join the ranks that the launcher started, or be the only one.

    Raises UserError, on every rank, where the ranks of a node outnumber its devices or where devices differ in kind, and where
    Slurm started tasks that are none of the ranks; on the first rank where the port is taken.
    """
    if "RANK" not in os.environ and started_by_mpi():
        # `deepspeed --launcher openmpi` sets no RANK.
        discover_mpi(os.environ.get("MASTER_PORT"))
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    accelerator = get_accelerator()
    try:
        # On rank 0 this is the server: kept, so that the group below finds it there.
        store = next(torch.distributed.rendezvous("env://", timeout=TIMEOUT))[0]
        seat = Seat(node(), int(os.environ["LOCAL_RANK"]), accelerator.device_name(), accelerator.device_count())
        # Before the ranks bind their devices: where one has none, the others would wait for it.
        seats = synchronize(store, json.dumps(seat).encode(), rank(), world_size(), "seats/", TIMEOUT.total_seconds())
        _check_seats([Seat(*json.loads(seat)) for seat in seats])
        init_distributed(TIMEOUT)
    except torch.distributed.DistNetworkError as error:
        if "EADDR" not in str(error):
            raise
        raise UserError(
            f"MASTER_PORT {os.environ['MASTER_PORT']}: the ranks cannot meet there ({str(error).splitlines()[0][:120]}); if "
            "another run has the port, give the launcher another, for instance deepspeed --master_port 29501"
        ) from None
    bind()
    _open_host_group()
    _check_tasks(os.environ.get(_STEP_TASKS), os.environ.get("SLURM_PROCID"))


def bind() -> None:
    """Have this thread compute on its rank's device: a thread begins on the first one."""
    if get_accelerator().device_name() != "cpu":
        get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))


_host_group: torch.distributed.ProcessGroup | None = None
"""The ranks as hosts, where their own backend goes by the device; else they are the default group."""


def _open_host_group() -> None:
    global _host_group
    _host_group = None
    if torch.distributed.get_backend() != "gloo" and world_size() > 1:
        try:
            _host_group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)
        except RuntimeError as error:
            raise UserError(
                f"the ranks cannot meet over gloo ({str(error).splitlines()[0][:120]}); name the network interface by "
                "GLOO_SOCKET_IFNAME, as for NCCL by NCCL_SOCKET_IFNAME"
            ) from None


def node() -> str:
    """The name of this rank's node: Slurm's, or the host's own."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def restarts() -> int:
    """How often Slurm has put this job back into its queue; 0 where it is no job of Slurm's."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _check_seats(seats: list[Seat]) -> None:
    """Raise UserError where the ranks compute on devices of several kinds, or where one has no device to itself."""
    first = seats[0]
    for seat in seats:
        if seat.kind != first.kind:
            raise UserError(
                f"node {seat.node}: rank {seats.index(seat)} would compute on {seat.kind} and rank 0, on node {first.node}, on "
                f"{first.kind}; see that every node has its devices and their driver, or set DS_ACCELERATOR for all"
            )
        if seat.kind != "cpu" and seat.local_rank >= seat.devices:
            raise UserError(
                f"node {seat.node}: LOCAL_RANK {seat.local_rank} is beyond its {_counted(seat.devices, 'device')}; "
                "start one rank a device: under Slurm as many --ntasks-per-node as --gpus-per-node (--gpus-per-task hides the "
                "others), with deepspeed --num_gpus, with torchrun --nproc-per-node"
            )


def _check_tasks(started: str | None, task: str | None) -> None:
    """Check that each of the tasks that Slurm started is one rank or several, and log whose job this is; a collective call.

    `started` tasks, of which this rank is one; None where something else started it: under `mpirun` only the ranks of other
    nodes come from Slurm. Tasks that do not know of each other train alone, each the whole recipe, and all of them end
    well. Raises UserError.
    """
    ranks = gathered(None if started is None or task is None else int(task))
    tasks = {task for task in ranks if task is not None}
    if started is None or None in ranks:
        return
    if tasks != set(range(int(started))):
        raise UserError(
            f"Slurm started {_counted(int(started), 'task')}, and DeepSpeed sees {_counted(world_size(), 'rank')} in "
            f"{_counted(len(tasks), 'task')} of them: the others would train on their own; start the tasks with "
            "launch/slurm/task.sh, as pretrain.sbatch does, or with torchrun and one --rdzv-endpoint for all"
        )
    job, nodes = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_NODELIST")
    logger.info("job %s, restart %d, nodes %s, %s", job, restarts(), nodes, _counted(world_size(), "rank"))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def leave() -> None:
    """Part from the other ranks."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def has_lost_a_rank(error: Exception) -> bool:
    """Whether an error is that of a collective whose other end is gone."""
    return isinstance(error, torch.distributed.DistBackendError) or "gloo/transport" in str(error)


def device() -> torch.device:
    """The device that this rank computes on."""
    return torch.device(get_accelerator().current_device_name())


def gathered(value: Result) -> list[Result]:
    """Return the values of all ranks, in their order; a collective call."""
    values = [value] * world_size()
    if len(values) > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def begin_on_first_rank(work: Callable[[], Result]) -> Background[Result] | None:
    """Begin `work` in a thread of rank 0; return where its result will be, None on the other ranks.

    It must not use the ranks' collectives, nor an accelerator: a thread begins on the first device of its node.
    """
    return None if rank() > 0 else Background(work)


def on_first_rank(work: Callable[[], Result]) -> Result:
    """Return what `work` returns on rank 0, on every rank; a UserError there is raised on every rank.

    Any other error is raised there as it is, and as a RuntimeError on the others, which would wait for ever.
    """
    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if rank() == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            sentence = refusal(error)
            if sentence is not None:
                outcome[1] = error if isinstance(error, UserError) else UserError(sentence)
            else:
                # Not every error can be sent.
                failure, outcome[1] = error, RuntimeError(f"rank 0: {type(error).__name__}: {error}")
    torch.distributed.broadcast_object_list(outcome, src=0, device=device())
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def on_every_rank(work: Callable[[], Result]) -> Result:
    """Run `work` on each rank; where any meets a UserError, raise the first one on all.

    Where it is met on some nodes and not on others, the sentence begins with the node. Any other error is raised on its own
    rank as it is, and as a RuntimeError on the others, which would wait for ever.
    """
    results: list[Result] = []
    seen, fault, failure = None, None, None
    try:
        results.append(work())
    except Exception as error:
        seen = refusal(error)
        if seen is None:
            # Not every error can be sent.
            failure, fault = error, f"rank {rank()}: {type(error).__name__}: {error}"
    outcomes = gathered((seen, fault, node()))
    if failure is not None:
        raise failure
    first_fault = next((fault for _, fault, _ in outcomes if fault is not None), None)
    if first_fault is not None:
        raise RuntimeError(first_fault)
    refusals = [(sentence, name) for sentence, _, name in outcomes if sentence is not None]
    if refusals:
        sentence, name = refusals[0]
        everywhere = {name for _, name in refusals} == {name for _, _, name in outcomes}
        raise UserError(sentence if everywhere else f"node {name}: {sentence}")
    return results[0]


def node_by_node(work: Callable[[], Result]) -> Result:
    """Return what `work` returns on each rank, done by one rank of each node first: what it downloads the others find.

    Errors are raised as by `on_every_rank`.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        on_every_rank(lambda: None)
        return on_every_rank(work)
    result = on_every_rank(work)
    on_every_rank(lambda: None)
    return result


def first_found(found: Result | None) -> Result | None:
    """Return what the first of the ranks that has found something has found, None where none has; a collective call."""
    return next((one for one in gathered(found) if one is not None), None)


def total(*values: float) -> list[float]:
    """Return each value summed over the ranks, from host to host: no device is waited for."""
    summed = np.array(values, dtype=np.float64)
    if world_size() > 1:
        torch.distributed.all_reduce(torch.from_numpy(summed), group=_host_group)
    return summed.tolist()


def add_up(tensor: torch.Tensor) -> None:
    """Sum a tensor over the ranks in place; of a device the host does not wait for it."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor)


class HostCopy:
    """Numbers on their way from the device to the host, which may do something else until they are read."""

    def __init__(self, *numbers: torch.Tensor | float) -> None:
        """Each number is on the device, or known to the host."""
        self._known: list[float | None] = []
        tensors = []
        for number in numbers:
            moves = isinstance(number, torch.Tensor) and number.device.type == device().type
            self._known.append(None if moves else float(number))
            if moves:
                tensors.append(torch.as_tensor(number).detach().double().reshape(1))
        gathered = torch.cat(tensors) if tensors else torch.empty(0)
        self._event = None
        if gathered.device.type != "cpu":
            pinned = torch.empty(len(gathered), dtype=torch.float64, pin_memory=True)
            pinned.copy_(gathered, non_blocking=True)
            self._event = get_accelerator().Event()
            self._event.record()
            gathered = pinned
        self._values = gathered

    def read(self) -> list[float]:
        """Return the numbers; the one place of a step where the host waits for the device."""
        if self._event is not None:
            self._event.synchronize()
        arrived = iter(self._values.numpy().tolist())
        return [next(arrived) if known is None else known for known in self._known]
