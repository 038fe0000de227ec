"""The run directory's JSON lines: one object a step, cut back to the checkpoint when a run goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.files import write_atomically


class JsonLines:
    """A file of JSON objects, appended to a line at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add one object."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return all whole objects; a last line that a kill cut short is none."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the records that are not wanted: what they tell of is done again."""
        kept = [record for record in self.read() if wanted(record)]
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in kept))
