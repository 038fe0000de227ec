"""The prepared data that a run reads, compared with its digests while steps run; a fault on one rank is raised on all."""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.common.files import read_bytes, write_json
from pipeline.common.heartbeat import beat
from pipeline.data.checks import CheckedFile, DataChecks, Found
from pipeline.training import distributed
from pipeline.training.distributed import Result

logger = logging.getLogger(__name__)

_BYTES_A_SECOND = 128 << 20
"""Bytes that a rank compares in a second: a sixth of a core, and what a storage that all ranks share can spare."""
_LOWEST_PRIORITY = 19
_BEAT_SECONDS = 1.0


class DamagedDataError(UserError):
    """Prepared data is not what it was; raised on every rank."""

    def __init__(self, sentence: str, *, used: bool) -> None:
        """`used`: steps of this run may have been trained on what is damaged."""
        super().__init__(sentence)
        self.used = used


@dataclass(frozen=True, slots=True)
class _Fault:
    """What this rank has met."""

    error: Exception
    whole_at: int | None
    """The last step at which the file was known to be whole, where steps may have read what is damaged; else None."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What former attempts of a run found whole."""

    files: frozenset[Found] = frozenset()
    step: int = 0
    """Where the last of them began: then all these files were whole, as far as inode, size and time show."""

    @classmethod
    def read(cls, path: Path) -> "Remembered":
        """Return what stands in a run's file; nothing where there is none, or it cannot be read: all is compared again."""
        try:
            content = json.loads(read_bytes(path).decode())
            return cls(frozenset(Found(**found) for found in content["files"]), int(content["step"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return cls()

    def write(self, path: Path) -> None:
        """Replace a run's file."""
        files = sorted(map(asdict, self.files), key=lambda found: found["path"])
        write_json(path, {"step": self.step, "files": files})


class DataWatch:
    """Compares what `checks` left on a thread of the lowest priority, and writes down what was found whole.

    Every rank has one of its own, over its share of the files.
    """

    def __init__(self, checks: DataChecks, path: Path, remembered: Remembered) -> None:
        """`path` is the run's file, and `remembered` what it held at the start."""
        self._checks = checks
        self._path = path
        self._before = remembered
        self._now = Remembered()
        self._fault: _Fault | None = None
        self._ended = False
        self._hurry = threading.Event()
        """Set where the thread is to wait no longer between two reads."""
        self._unguarded_done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="data")
        # Guarded files can wait: nothing of them is used that was not compared.
        self._left = sorted(checks.left, key=lambda file: (file.guarded, str(file.path)))

    @contextlib.contextmanager
    def from_step(self, step: int) -> Iterator[None]:
        """Compare what is left while the block runs, in an attempt that begins after so many steps."""
        self._now = Remembered(step=step)
        self._thread.start()
        try:
            yield
        finally:
            self._ended = True
            self._hurry.set()
            # A read that hangs, on a network's file system, is not waited for.
            self._thread.join(timeout=_BEAT_SECONDS)

    def read(self, work: Callable[[], list[Result]]) -> list[Result]:
        """Return what `work` reads of the data; nothing where it is damaged, which `signs` then say."""
        try:
            return work()
        except UserError as error:
            self._fault = self._fault or _Fault(error, None)
            return []

    @property
    def signs(self) -> tuple[float, float]:
        """Whether this rank has met a fault, and whether steps may have been trained on it; to be summed over the ranks."""
        fault = self._fault
        return float(fault is not None), float(fault is not None and fault.whole_at is not None)

    def agreed(self, step: int, *, used: bool) -> DamagedDataError:
        """Return the error of the fault that a rank has met after `step` steps, the same on every rank; a collective call."""

        def fault() -> None:
            if self._fault is not None and used == (self._fault.whole_at is not None):
                raise self._error(self._fault, step)

        try:
            distributed.on_every_rank(fault)
        except UserError as error:
            return DamagedDataError(str(error), used=used)
        raise AssertionError("no rank has met a fault")

    @staticmethod
    def _error(fault: _Fault, step: int) -> Exception:
        if not isinstance(fault.error, UserError):
            return fault.error
        if fault.whole_at is None or fault.whole_at >= step:
            return UserError(f"{fault.error}; no step was trained on it")
        return UserError(
            f"{fault.error}; steps {fault.whole_at + 1:,} to {step:,} may have been trained on it: remove the checkpoints of "
            f"steps beyond {fault.whole_at:,}, and start the same command again"
        )

    def remember(self) -> None:
        """Write down what was found whole since the last time; a collective call."""
        mine, self._checks.whole = self._checks.whole, []
        found = frozenset(one for of_rank in distributed.gathered(mine) for one in of_rank)
        if found:
            self._now = replace(self._now, files=self._now.files | found)
            if distributed.rank() == 0:
                # A run goes on where the disk is full: without the file more is compared, and nothing is lost.
                with contextlib.suppress(OSError):
                    self._now.write(self._path)

    def finish(self, step: int) -> None:
        """Wait until all is compared that may have been used uncompared; a collective call.

        A fault in what no step was trained on is a warning. Raises DamagedDataError on every rank
        where steps may have been trained on data that is damaged.
        """
        self._hurry.set()
        # In step with the others: a rank that waited for them in a collective would pass for one that stalls.
        while distributed.total(float(not self._unguarded_done.wait(_BEAT_SECONDS)))[0]:
            beat()
        faults, used = distributed.total(*self.signs)
        if used:
            raise self.agreed(step, used=True)
        if faults:
            logger.warning(str(self.agreed(step, used=False)))
        self.remember()

    def _run(self) -> None:
        if sys.platform == "linux":
            # Of this thread alone. Where it is not allowed the thread is as good as any.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        for file in self._left:
            if file.guarded:
                self._unguarded_done.set()
            try:
                found = file.found()
                file.compare(self._pace())
            except _EndedError:
                return
            except Exception as error:
                self._fault = self._fault or _Fault(error, None if file.guarded else self._last_whole(file))
                break
            self._checks.whole.append(found)
        self._unguarded_done.set()

    def _last_whole(self, file: CheckedFile) -> int:
        """The last step at which a file is known to have been whole."""
        path = os.path.abspath(file.path)
        known = any((found.path, found.digest) == (path, file.digest) for found in self._before.files)
        return self._before.step if known else 0

    def _pace(self) -> Callable[[int], None]:
        """Return what is called after each piece of a file, and waits so long that the rate is kept."""
        due = time.monotonic()

        def wait(size: int) -> None:
            nonlocal due
            due += size / _BYTES_A_SECOND
            self._hurry.wait(max(0.0, due - time.monotonic()))
            if self._ended:
                raise _EndedError

        return wait


class _EndedError(Exception):
    """The run is over."""
