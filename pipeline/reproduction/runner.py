"""Runs as processes of launch/pretrain.py, several at a time."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.common.quiet import EXIT_DIVERGED, status_of
from pipeline.reproduction.task import Task
from pipeline.training.signals import EXIT_STOPPED, Stopped

logger = logging.getLogger(__name__)

_PACKAGES = Path(__file__).resolve().parents[2]
_PRETRAIN = ("-m", "pipeline.cli.pretrain")
_POLL_SECONDS = 0.5
_OF_A_STOP = (EXIT_STOPPED, -signal.SIGTERM)
"""Statuses of runs that were asked to stop; the signal itself ends one that has just started, when there is nothing to save."""


def status_of_runs(work: Callable[..., None], *arguments: object) -> int:
    """Do what starts runs; return the exit status, which is that of a stop where they were stopped."""
    try:
        return status_of(work, *arguments)
    except Stopped:
        print("the runs were stopped; start the same command again to continue them", file=sys.stderr)
        return EXIT_STOPPED


class Runner:
    """Starts runs, `jobs` at a time."""

    def __init__(self, ds_config: Path, jobs: int, threads: int | None) -> None:
        """`threads` is what each may use of a CPU; what its libraries choose where None."""
        self._ds_config = ds_config
        self._jobs = jobs
        # The same packages as here, also where they are not installed.
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
        }
        if threads is not None:
            self._environment["OMP_NUM_THREADS"] = str(threads)
        self._stopping = False
        self._running: dict[subprocess.Popen[bytes], tuple[Task, float]] = {}

    def stop_by_signals(self, minutes: float | None = None) -> None:
        """Have SIGINT, SIGTERM and SIGHUP stop the runs, and so many minutes."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            # Under nohup SIGHUP is ignored, and stays so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.stop)
        if minutes is not None:
            signal.setitimer(signal.ITIMER_REAL, 60 * minutes)

    def stop(self, *_: object) -> None:
        """Have the runs in hand save and stop, or, when called again some seconds later, stop at once; a handler of signals."""
        self._stopping = True
        self._tell()

    def finish(self, tasks: Sequence[Task]) -> None:
        """Run what is not finished of the tasks, in their order but that none begins before its trunk has ended.

        Raises UserError naming the log where a run fails, once those beside it have ended, and else Stopped where
        `stop` was called and the runs in hand have saved. A run that may diverge and does has not failed.
        """
        for task in tasks:
            task.write()
        waiting = [task for task in tasks if not task.ended]
        failed: list[tuple[Task, int]] = []
        try:
            while self._running or (waiting and not failed and not self._stopping):
                while len(self._running) < self._jobs and not failed and not self._stopping:
                    due = next((task for task in waiting if task.ready), None)
                    if due is None:
                        break
                    waiting.remove(due)
                    if due.trunk is not None and due.trunk.diverged:
                        # It has the same steps.
                        due.mark_diverged()
                        continue
                    process = self._start(due)
                    self._running[process] = due, time.monotonic()
                    if self._stopping:
                        # It may have entered the table too late to be stopped by it.
                        process.send_signal(signal.SIGTERM)
                time.sleep(_POLL_SECONDS)
                for process, (task, started) in list(self._running.items()):
                    if process.poll() is None:
                        continue
                    del self._running[process]
                    if self._stopping and process.returncode in _OF_A_STOP:
                        continue
                    diverged = task.may_diverge and process.returncode == EXIT_DIVERGED
                    if diverged:
                        task.mark_diverged()
                    elif process.returncode != 0:
                        failed.append((task, process.returncode))
                        continue
                    seconds, left = time.monotonic() - started, len(waiting) + len(self._running)
                    end = "diverged" if diverged else "done"
                    logger.info("%s: %s in %.0f s, %d to go here", task.name, end, seconds, left)
        finally:
            # Nothing is left running, even where something went wrong here.
            self._tell()
            for process in self._running:
                process.wait()
        if failed:
            task, status = failed[0]
            raise UserError(
                f"{task.log}: the run {task.name} ended with status {status}; the log says why; correct that "
                "and start the same command again to continue"
            )
        if self._stopping:
            raise Stopped

    def _start(self, task: Task) -> subprocess.Popen[bytes]:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", *_PRETRAIN, "--ds_config", str(self._ds_config), "--recipe", str(task.recipe_file)]
        if task.trunk is not None and not task.trunk.rewound:
            command += ["--branch_from", str(task.trunk.run)]
        with open(task.log, "ab") as log:
            # A separate session: Ctrl-C reaches a run through `stop` alone.
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )

    def _tell(self) -> None:
        for process in list(self._running):
            process.send_signal(signal.SIGTERM)
