"""The end of a run whose ranks no longer get anywhere, with a message that names the rank to look at."""

import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from torch.distributed import PrefixStore
from torch.distributed.distributed_c10d import _get_default_store

from pipeline.common.heartbeat import watched_by
from pipeline.training import distributed
from pipeline.training.distributed import Result

EXIT_STALLED = 1
"""A fault's exit status: what stalled once may stall again, and a person should look."""

# In the last one for the device, whose own collectives the host does not see.
_COLLECTIVE = ("torch/distributed/", "deepspeed/comm/", "torch/cuda/streams.py")
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """What one rank says of itself."""

    step: int
    """The last step that it finished."""
    where: str
    """Function, file and line that its main thread is in."""
    waits: bool
    """Whether that is a collective, in which it waits for the other ranks."""


class Watchdog:
    """Ends this process where nothing gets on for `seconds`; to be used from the first model's building on, on every rank.

    Its threads count: the main one may be in a collective, and stay there. Within half a minute of the bound,
    standard error has a line that names the ranks that did not arrive, and a traceback of each rank that still can give
    one; the status is EXIT_STALLED.
    """

    def __init__(self, seconds: float, step: int = 0) -> None:
        """`step` is the one that the run stands at."""
        self._seconds = seconds
        self._interval = min(5.0, seconds / 10)
        self._step = step
        self._beaten = time.monotonic()
        self._rests = False
        self._stack = ExitStack()
        self._ended = threading.Event()
        self._ending = threading.Lock()
        self._main = threading.main_thread().ident or 0
        Watchdog._count += 1
        # Connections of their own: one is busy for as long as a thread waits for something in it.
        prefix = f"watchdog-{Watchdog._count}"
        another = _get_default_store().clone  # type: ignore[attr-defined] # torch's stub does not have it
        self._store, self._alarms = (PrefixStore(prefix, another()) for _ in range(2))
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._watch, self._listen)]

    _count = 0
    """Watchdogs so far, on every rank alike."""

    def __enter__(self) -> "Watchdog":
        self._beaten = time.monotonic()
        self._stack.enter_context(watched_by(self.beat))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        # Where the others have ended already, a collective fails here before the line is out: let it come first.
        self._ended.set()
        for thread in self._threads:
            # A store that no longer answers holds the second one.
            thread.join(6 * _ANSWER_SECONDS)
        faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """Take note that this rank gets on: within the block every heartbeat of its thread comes here."""
        self._beaten = time.monotonic()

    def reached(self, step: int) -> None:
        """Take note that this rank has finished `step`."""
        self._step = step
        self.beat()

    def on_first_rank(self, work: Callable[[], Result]) -> Result:
        """Return what `distributed.on_first_rank` does of work whose length is rank 0's to answer for."""
        self._rests = distributed.rank() > 0
        try:
            return distributed.on_first_rank(work)
        finally:
            self.beat()
            self._rests = False

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            # Should a library hold the interpreter's lock, this thread would stand still with it; faulthandler's does not.
            faulthandler.dump_traceback_later(self._seconds + 60, exit=True)
            if not self._rests and time.monotonic() - self._beaten > self._seconds:
                self._end()

    def _listen(self) -> None:
        """End with the first rank that ends: its steps are this rank's too."""
        try:
            while not self._ended.wait(self._interval):
                if self._alarms.check(["alarm"]):
                    self._end()
        except RuntimeError:
            # The store has ended with rank 0; the launcher ends the others.
            return

    def _end(self) -> None:
        # Never let go of: the process ends here.
        self._ending.acquire()
        own = _report(self._step, self._main)
        print(f"rank {distributed.rank()} stands after step {self._step} in:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr)
        reports = {distributed.rank(): own}
        # The store is rank 0's, and may be what does not answer.
        asking = threading.Thread(target=self._ask, args=(own, reports), daemon=True)
        asking.start()
        asking.join(2 * self._interval + 2 * _ANSWER_SECONDS)
        if distributed.rank() == min(reports):
            print(message(dict(reports), distributed.world_size(), self._seconds), file=sys.stderr, flush=True)
        # The others may still be asking, and the store ends with rank 0.
        time.sleep(2)
        os._exit(EXIT_STALLED)

    def _ask(self, own: Report, reports: dict[int, Report]) -> None:
        """Give the other ranks this one's report, and collect theirs."""
        self._store.set(str(distributed.rank()), json.dumps(asdict(own)))
        self._store.set("alarm", "")
        deadline = time.monotonic() + 2 * self._interval + _ANSWER_SECONDS
        left = set(range(distributed.world_size())) - {distributed.rank()}
        while left and time.monotonic() < deadline:
            for rank in sorted(left):
                if self._store.check([str(rank)]):
                    reports[rank] = Report(**json.loads(self._store.get(str(rank))))
                    left.discard(rank)
            time.sleep(0.1)


def message(reports: Mapping[int, Report], world_size: int, seconds: float) -> str:
    """Return one line that names the ranks that hold the others up, by the `reports` of those that answered.

    Those that do not answer (stopped, or their machine is gone), else those that are a step behind, else those that are
    not in a collective where others wait in one.
    """
    unanswered = [rank for rank in range(world_size) if rank not in reports]
    newest = max(report.step for report in reports.values())
    behind = [rank for rank, report in sorted(reports.items()) if report.step < newest]
    outside = [rank for rank, report in sorted(reports.items()) if not report.waits]
    began = f"nothing done for {_span(seconds)} (guard.stall_minutes) after step {newest}: "
    if unanswered:
        return began + f"{_ranks(unanswered)} does not answer: stopped, or its machine is gone"
    guilty = behind or (outside if len(outside) < world_size else [])
    if guilty:
        places = "; ".join(f"rank {rank} is in {reports[rank].where}, after step {reports[rank].step}" for rank in guilty)
        return began + f"{_ranks(guilty)} did not arrive where the others wait ({places})"
    places = "; ".join(f"rank {rank} is in {report.where}" for rank, report in sorted(reports.items()))
    return began + f"all ranks answer, and none gets on ({places})"


def _report(step: int, thread: int) -> Report:
    stack = traceback.extract_stack(sys._current_frames()[thread])
    waits = any(part in frame.filename for frame in stack for part in _COLLECTIVE)
    own = next((frame for frame in reversed(stack) if "site-packages" not in frame.filename), stack[-1])
    return Report(step, f"{own.name} ({os.path.basename(own.filename)}:{own.lineno})", waits)


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else "one of the ranks " + ", ".join(map(str, ranks))


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"
