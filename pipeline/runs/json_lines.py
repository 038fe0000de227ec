"""The run directory's JSON lines: one object a step, cut back to the checkpoint when a run goes on."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.errors import is_full_disk
from data_prep.files import write_atomically


class JsonLines:
    """A file of JSON objects, appended to a line at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten = b""

    def append(self, record: dict[str, Any]) -> None:
        """Add one object; numbers that are none become null, JSON having no others.

        Where the disk is full the line waits for the next one: a run goes on while a checkpoint does not fit.
        """
        line = json.dumps({key: _finite(value) for key, value in record.items()}) + "\n"
        self._unwritten += line.encode()
        self._write(on_disk=False)

    def flush(self) -> None:
        """Write the lines that wait, where there is room by now, and have the file on disk."""
        self._write(on_disk=True)

    def _write(self, *, on_disk: bool) -> None:
        # Unbuffered: what a buffer holds after a failed write is written again when it is closed.
        with open(self.path, "ab", buffering=0) as file:
            size, written = os.fstat(file.fileno()).st_size, 0
            try:
                written = file.write(self._unwritten)
                if on_disk:
                    os.fsync(file.fileno())
            except OSError as error:
                if not is_full_disk(error):
                    raise
            if written == len(self._unwritten):
                self._unwritten = b""
            else:
                file.truncate(size)

    def read(self) -> list[dict[str, Any]]:
        """Return all whole objects; a last line that a kill cut short is none."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Drop the records that are not wanted, and return them: what they tell of is done again."""
        records = self.read()
        kept = [record for record in records if wanted(record)]
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        return [record for record in records if not wanted(record)]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
