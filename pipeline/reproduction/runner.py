"""Runs as processes of launch/pretrain.py, several at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.errors import UserError
from pipeline.reproduction.tasks import Task
from pipeline.training.signals import Stopped

_PRETRAIN = Path(__file__).parents[2] / "launch" / "pretrain.py"
_POLL_SECONDS = 0.5


class Runner:
    """Starts runs, `jobs` at a time."""

    def __init__(self, ds_config: Path, jobs: int, threads: int | None, say: Callable[[str], None]) -> None:
        """`threads` is what each may use of a CPU; what its libraries choose where None."""
        self._ds_config = ds_config
        self._jobs = jobs
        self._environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
        self._say = say
        self._stopping = False

    def stop(self, *_: object) -> None:
        """Have the runs in hand save and stop; a handler of signals."""
        self._stopping = True

    def finish(self, tasks: Sequence[Task]) -> None:
        """Run what is not finished of the tasks, in their order.

        Raises UserError naming the log where a run fails, once those beside it have ended, and Stopped where
        `stop` was called and the runs in hand have saved.
        """
        for task in tasks:
            task.write()
        waiting = [task for task in tasks if not task.ended]
        running: dict[str, tuple[Task, subprocess.Popen[bytes], float]] = {}
        failed: list[tuple[Task, int]] = []
        while running or (waiting and not failed and not self._stopping):
            while waiting and len(running) < self._jobs and not failed and not self._stopping:
                task = waiting.pop(0)
                running[task.name] = task, self._start(task), time.monotonic()
            time.sleep(_POLL_SECONDS)
            if self._stopping:
                self._end(running)
            for name, (task, process, begun) in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                del running[name]
                if status == 0:
                    self._say(f"{name}: done in {time.monotonic() - begun:.0f} s, {len(waiting) + len(running)} to go here")
                elif not self._stopping:
                    failed.append((task, status))
        if self._stopping:
            raise Stopped
        if failed:
            task, status = failed[0]
            raise UserError(f"{task.log}: the run {task.name} ended with status {status}; the log says why")

    def _start(self, task: Task) -> subprocess.Popen[bytes]:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(_PRETRAIN), "--ds_config", str(self._ds_config), "--recipe", str(task.recipe_file)]
        with open(task.log, "ab") as log:
            # A group of its own: a signal to this process is passed on once, when the run may save.
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )

    @staticmethod
    def _end(running: dict[str, tuple[Task, subprocess.Popen[bytes], float]]) -> None:
        for _, process, _ in running.values():
            process.send_signal(signal.SIGTERM)
        for _, process, _ in running.values():
            process.wait()
