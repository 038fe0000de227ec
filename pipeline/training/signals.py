"""Being asked to stop: by a signal, or by the launcher's death."""

import os
import signal
import sys
import threading
import time
import types

import psutil

EXIT_STOPPED = 75
"""Exit status of a run that stopped and goes on when started again."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_ECHO_SECONDS = 5.0
"""A signal within this time of the first one is the same request: Ctrl-C reaches a rank as SIGINT, and then as the
launcher's SIGTERM."""


class Stopped(BaseException):
    """The run was asked to stop and has saved what there was to save."""


class StopRequest:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a flag while steps run, and into `Stopped` anywhere else.

    Another one, more than five seconds after the first, ends the process at once, whatever is saved by then: the run goes on
    from its last checkpoint. The status is EXIT_STOPPED in either case, since in either case the same command goes on.

    The `deepspeed` launcher forwards no signal on one node: killed, it leaves its ranks behind. They
    notice that it is gone, and stop as if they had been asked to.
    """

    def __init__(self) -> None:
        self._asked = False
        self._deferred = False
        self._links = _launcher_links()
        read, write = os.pipe()
        os.set_blocking(write, False)
        # Python runs its handlers between two instructions of the main thread, which may be in a collective for hours.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._leave_at_the_second, args=(read,), daemon=True, name="signals").start()
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    @property
    def asked(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._asked or not all(_is_parent(parent, child) for child, parent in self._links)

    def defer(self) -> None:
        """From here on the training loop looks at `asked` itself."""
        self._deferred = True

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        first, self._asked = not self._asked, True
        # An echo must not interrupt the way out.
        if first and not self._deferred:
            raise Stopped

    @staticmethod
    def _leave_at_the_second(read: int) -> None:
        first = None
        while True:
            numbers = os.read(read, 1)
            if numbers[0] not in _SIGNALS:
                continue
            now = time.monotonic()
            if first is None:
                first = now
            elif now - first > _ECHO_SECONDS:
                name = signal.Signals(numbers[0]).name
                print(
                    # What is saved is not named: a run may be signalled while it leaves, with all on disk.
                    f"{name}: a second request to stop, so the run ended at once; start the same command again to continue "
                    "from the last checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_STOPPED)


def _launcher_links() -> list[tuple[psutil.Process, int]]:
    """This process and the launchers above it, each with the pid of the launcher that started it."""
    links = []
    child = psutil.Process()
    for parent in child.parents():
        try:
            command = " ".join(parent.cmdline()[:4])
        except psutil.Error:
            break
        if "bin/deepspeed" not in command and "deepspeed.launcher" not in command:
            break
        links.append((child, parent.pid))
        child = parent
    return links


def _is_parent(pid: int, child: psutil.Process) -> bool:
    # A dead launcher may linger as a zombie, but its children have another parent at once.
    try:
        return child.ppid() == pid
    except psutil.NoSuchProcess:
        return False
