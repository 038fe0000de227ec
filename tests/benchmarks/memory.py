"""A process's anonymous memory and its peak; mapped file pages, which the kernel may drop, are left out."""

import threading
from pathlib import Path


def anonymous(process: int | str = "self") -> int:
    """Return a process's anonymous resident bytes, 0 where it is ending; raises OSError where it is gone."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


class Watched:
    """The `peak` of this process's anonymous bytes while a block runs, above what they were at its start."""

    def __enter__(self) -> "Watched":
        self._begin = self.peak = anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous()) - self._begin
