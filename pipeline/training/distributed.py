"""Ranks: joining them, letting one decide for all, adding up what each has seen."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import deepspeed
import torch
import torch.distributed
from deepspeed.accelerator import get_accelerator

from data_prep.command import refusal
from data_prep.errors import UserError

Result = TypeVar("Result")

_TIMEOUT = timedelta(hours=12)
"""One rank prepares the data while the others wait."""


def rank() -> int:
    """This process's rank; 0 where nothing was launched."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of ranks; 1 where nothing was launched."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Join the ranks that the launcher started, or be the only one; raises UserError where the port is taken."""
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if get_accelerator().device_name() == "cpu":
        # Shared-memory collectives are compiled at the first start, for up to 90 s and only where there is a C++ compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    try:
        deepspeed.init_distributed(get_accelerator().communication_backend_name(), auto_mpi_discovery=False, timeout=_TIMEOUT)
    except torch.distributed.DistNetworkError as error:
        raise UserError(
            f"MASTER_PORT {os.environ['MASTER_PORT']}: the ranks cannot meet there ({str(error).splitlines()[0][:120]}); if "
            "another run has the port, give the launcher another, for instance deepspeed --master_port 29501"
        ) from None
    if get_accelerator().device_name() != "cpu":
        get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))


def leave() -> None:
    """Part from the other ranks."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def device() -> torch.device:
    """The device that this rank computes on."""
    return torch.device(get_accelerator().current_device_name())


def on_first_rank(work: Callable[[], Result]) -> Result:
    """Return what `work` returns on rank 0, on every rank; an error there that a person can mend is a UserError on every rank.

    Any other error is raised there as it is, and as a RuntimeError on the others, which would wait for ever.
    """
    outcome: list[object] = [None, None]
    failure: Exception | None = None
    if rank() == 0:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = error
        except Exception as error:
            sentence = refusal(error)
            if sentence is not None:
                outcome[1] = UserError(sentence)
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
    """Run `work` on each rank; where it raises a UserError on any, raise the first one on all."""
    result, error = None, None
    try:
        result = work()
    except UserError as raised:
        error = raised
    errors: list[UserError | None] = [None] * world_size()
    torch.distributed.all_gather_object(errors, error)
    for raised in errors:
        if raised is not None:
            raise raised
    return result


def total(*values: float) -> list[float]:
    """Return each value summed over the ranks."""
    summed = torch.tensor(values, dtype=torch.float64, device=device())
    torch.distributed.all_reduce(summed)
    return summed.tolist()
