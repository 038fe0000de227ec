"""The run directory's JSON lines: one object a step, cut back to the checkpoint when a run goes on."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic

from pipeline.common.config import Typed, typed
from pipeline.common.errors import UserError, is_full_disk, one_line
from pipeline.common.files import read_bytes, write_atomically


class JsonLines(Generic[Typed]):
    """A file of JSON objects of one kind, appended to a line at a time."""

    def __init__(self, path: Path, kind: type[Typed]) -> None:
        """`kind` is a TypedDict of `pipeline.runs.records`."""
        self.path = path
        self._kind = kind
        self._unwritten = b""

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one object; NaN and infinities become null, which JSON does not have.

        Where the disk is full the line waits for the next one: a run goes on while a checkpoint does not fit.
        """
        line = json.dumps({key: _finite(value) for key, value in record.items()}) + "\n"
        self._unwritten += line.encode()
        self._write(on_disk=False)

    def flush(self) -> None:
        """Write the lines that wait, where the disk is no longer full, and sync the file."""
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

    def read(self, *, ended: bool = False) -> list[Typed]:
        """Return all whole objects; a last line without a line feed counts only where the file is known to have `ended`.

        Raises UserError, which names the line, where one is damaged or of another kind.
        """
        # A link that leads nowhere is a file that cannot be read.
        if not os.path.lexists(self.path):
            return []
        *lines, last = read_bytes(self.path).split(b"\n")
        if ended and last:
            lines.append(last)
        return [self._parsed(line, f"{self.path}: line {number}") for number, line in enumerate(lines, 1)]

    def _parsed(self, line: bytes, where: str) -> Typed:
        try:
            return typed(self._kind, json.loads(line.decode(), parse_constant=_refuse), where)
        except UserError as error:
            reason = str(error)
        except (ValueError, RecursionError) as error:
            reason = f"{where}: not JSON ({one_line(error)})"
        raise UserError(f"{reason}; put the file back as it was written, or remove that line") from None

    def keep(self, wanted: Callable[[Typed], bool]) -> list[Typed]:
        """Drop the records that are not wanted, and return them: what they tell of is done again."""
        records = self.read()
        kept = [record for record in records if wanted(record)]
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        return [record for record in records if not wanted(record)]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON's")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
