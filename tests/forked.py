"""Processes of our programs that begin with their imports done: forks of one that has made them, seconds of work each.

Command lines as they are typed are for the tests of the launchers, of the README and of Slurm.
"""

import contextlib
import functools
import multiprocessing
import os
import queue
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

_IMPORTED = [
    "pipeline.training.run.pretraining",
    "transformers.models.auto.modeling_auto",
    *(
        f"transformers.models.{family}.modeling_{family}"
        for family in ("bert", "gpt2", "llama", "mistral", "qwen2", "qwen3", "roberta")
    ),
]
_BEGUN = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
"""What is read from the environment while modules are imported."""


@functools.cache
def context() -> ForkServerContext:
    """Where to start processes: on CPU, one thread each, with what a run imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    outside = {name: os.environ.get(name) for name in _BEGUN}
    os.environ.update(_BEGUN)
    forkserver.ensure_running()
    for name, value in outside.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    return context


def put_next(processes: Sequence[multiprocessing.process.BaseProcess], results: multiprocessing.Queue, deadline: float) -> Any:
    """Return what one of the processes puts next.

    Raises RuntimeError where one has ended without it, as one that is killed for lack of memory does, or when
    `time.monotonic()` is past the deadline.
    """
    while True:
        # Looked at first: what a process that has ended put is there by now.
        ended = [process for process in processes if process.exitcode is not None]
        try:
            return results.get(timeout=min(1.0, max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            if ended:
                raise RuntimeError(f"{ended[0].name}: ended with status {ended[0].exitcode} and no result") from None
            if time.monotonic() > deadline:
                raise RuntimeError(f"{', '.join(process.name for process in processes)}: no end in time") from None


class Program:
    """A Python program under way, with the manners of `subprocess.Popen`; ended with all that it started by its group's id."""

    def __init__(
        self,
        words: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        ranks: Sequence[Mapping[str, str]] = (),
        file_size: int | None = None,
    ) -> None:
        """Run the script `words[0]`, once, or once for each rank's own environment, whose processes are then its children.

        Writing past `file_size` bytes in one file fails, as on a disk that is full.
        """
        self._outputs = [tempfile.TemporaryFile("w+", encoding="utf-8"), tempfile.TemporaryFile("w+", encoding="utf-8")]  # noqa: SIM115 - read after the end
        self._said: list[str] = []
        files = [f"/proc/{os.getpid()}/fd/{output.fileno()}" for output in self._outputs]
        self._process = context().Process(
            target=_begin, args=(list(words), str(cwd), dict(environment), list(ranks), file_size, files)
        )
        self._process.start()
        self.pid = self._process.pid
        # Ended by its group, it must have one.
        with contextlib.suppress(ProcessLookupError):
            while os.getpgid(self.pid) != self.pid:
                time.sleep(0.01)

    @property
    def returncode(self) -> int | None:
        """As Popen's, but as it is now."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the status of one that has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("program", timeout)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return what was printed and what was said on stderr."""
        self.wait(timeout)
        if not self._said:
            for output in self._outputs:
                with output:
                    output.seek(0)
                    self._said.append(output.read())
        return self._said[0], self._said[1]

    def send_signal(self, number: int) -> None:
        """Signal this process, of several ranks their parent."""
        os.kill(self.pid, number)


def _begin(
    words: list[str],
    cwd: str,
    environment: dict[str, str],
    ranks: list[dict[str, str]],
    file_size: int | None,
    files: list[str],
) -> None:
    os.setsid()
    for number, file in enumerate(files, start=1):
        # Appended to: ranks write to one file.
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # What a process that was not forked has.
    multiprocessing.set_start_method(None, force=True)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    sys.argv = words
    if ranks:
        _launch([functools.partial(_run_rank, words[0], rank) for rank in ranks])
    runpy.run_path(words[0], run_name="__main__")


def _run_rank(script: str, rank: dict[str, str]) -> None:
    os.environ.update(rank)
    runpy.run_path(script, run_name="__main__")


def _launch(works: Sequence[Callable[[], None]]) -> None:
    """Run each in a process, and end with the status of the first that fails; the others are asked to end by then."""
    children = []
    for work in works:
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(0)
        children.append(pid)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(child, signal.SIGTERM) for child in children])
    failed = 0
    while children:
        pid, status = os.wait()
        children.remove(pid)
        if status and not failed:
            failed = os.waitstatus_to_exitcode(status)
            for child in children:
                os.kill(child, signal.SIGTERM)
    os._exit(failed % 256)
