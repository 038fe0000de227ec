"""Being asked to stop: by a signal, or by the launcher's death."""

import signal
import types

import psutil

EXIT_STOPPED = 75
"""Exit status of a run that stopped after saving and goes on when started again."""


class Stopped(BaseException):
    """The run was asked to stop and has saved what there was to save."""


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag while steps run, and into `Stopped` anywhere else.

    The `deepspeed` launcher forwards no signal on one node: killed, it leaves its ranks behind. They
    notice that it is gone, and stop as if they had been asked to.
    """

    def __init__(self) -> None:
        self._asked = False
        self._deferred = False
        self._links = _launcher_links()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @property
    def asked(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._asked or not all(_is_parent(parent, child) for child, parent in self._links)

    def defer(self) -> None:
        """From here on the training loop looks at `asked` itself."""
        self._deferred = True

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        self._asked = True
        if not self._deferred:
            raise Stopped


def _launcher_links() -> list[tuple[psutil.Process, int]]:
    """This process and the launchers above it, each with the pid of the launcher that started it."""
    links = []
    child = psutil.Process()
    for parent in child.parents():
        if not _is_launcher(parent):
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


def _is_launcher(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline()[:4])
    except psutil.Error:
        return False
    return "bin/deepspeed" in command or "deepspeed.launcher" in command
