"""Run a function on several ranks, each a process of its own, with a time limit that leaves nobody behind."""

import multiprocessing
import os
import pickle
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from tests.forked import context, put_next


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def environments(world_size: int) -> list[dict[str, str]]:
    """Return what a launcher tells each rank of this machine."""
    together = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [together | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"} for rank in range(world_size)]


def run_ranks(function: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 240) -> list[Any]:
    """Return what `function(*arguments)` returns on each rank.

    Raises AssertionError with a rank's traceback, RuntimeError where one is killed or has not ended after `timeout` seconds.
    """
    results: multiprocessing.Queue = context().Queue()
    processes = [
        context().Process(
            target=_rank, name=f"rank {rank}", args=(function, arguments, os.environ | variables, results), daemon=True
        )
        for rank, variables in enumerate(environments(world_size))
    ]
    for process in processes:
        process.start()
    gathered: dict[int, Any] = {}
    deadline = time.monotonic() + timeout
    try:
        while len(gathered) < world_size:
            missing = [process for rank, process in enumerate(processes) if rank not in gathered]
            rank, result, failure = put_next(missing, results, deadline)
            assert failure is None, f"rank {rank}: {failure}"
            gathered[rank] = pickle.loads(result)
    finally:
        for process in processes:
            process.join(timeout=5)
            process.kill()
            process.join()
    return [gathered[rank] for rank in range(world_size)]


def _rank(function, arguments, environment, results):
    os.environ.update(environment)
    import logging

    import torch

    from pipeline.training import distributed

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    rank = distributed.rank()
    try:
        distributed.join()
        # By value: a tensor in a queue is a handle that dies with its process.
        results.put((rank, pickle.dumps(function(*arguments)), None))
        distributed.leave()
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
