"""Run a daemon and hold whatever comes of it: `python keeper.py COMMAND ...`; ends all of it when its own input ends.

slurmd's steps leave it and outlive it. As a subreaper this process inherits them, so that a node is a tree of processes that
can be ended at once: as a power cut would, and also when the tests themselves are killed, since their end of the pipe goes too.
"""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

_PR_SET_CHILD_SUBREAPER = 36


def _reap(number: int = 0, frame: FrameType | None = None) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def descendants(pid: int) -> list[int]:
    """Return the processes below a process, itself left out."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold spaces.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def main() -> None:
    """Start the command, wait for the end of the input, kill what is there."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("this kernel has no PR_SET_CHILD_SUBREAPER")
    signal.signal(signal.SIGCHLD, _reap)
    subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    sys.stdin.buffer.read()
    # What one pass misses, being born in its midst, has come to this process by the next.
    while below := descendants(os.getpid()):
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        _reap()


if __name__ == "__main__":
    main()
