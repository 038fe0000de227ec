"""A job: stages over a frozen plan, their items shared among processes, each item whole or absent.

What an item leaves is named after the item, never after a process: any number of processes leaves the same bytes.
Outputs are written under another name, synced and renamed; the item's record, which holds their hashes and its own, comes
last. An item is done where its record is there and the hashes match, so that a killed job goes on with the items it had not
finished.
"""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from data_prep.jobs.workers import Workers, share
from pipeline.common.files import file_digest, fsync_directory, json_digest, write_json
from pipeline.common.progress import Advance, Meter

logger = logging.getLogger(__name__)

WORK = "work"
"""The folder of what is needed only until the job is done."""


@dataclass(frozen=True, slots=True)
class Item:
    """A unit of a stage's work: its name, unique in the stage, and its size, by which processes share the stage.

    The size is in the stage's unit: progress is counted in it too.
    """

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a finished item."""

    item: str
    outputs: dict[str, str]
    """BLAKE2b-128 of each file, by its path below the job's folder."""
    counts: dict[str, Any]
    """What the stage says of it. `documents_in`, `documents_out`, `bytes_in`, `bytes_out`, `tokens_out` add up to its
    line of the table."""


class Outputs:
    """The files that an item is about to leave: where the block that writes them fails, none is left."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: list[str] = []

    def path(self, name: str) -> Path:
        """Return where to write the file that becomes `name` below the job's folder."""
        self._names.append(name)
        path = self._partial(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self) -> dict[str, str]:
        """Put every file in its place, on disk; return their hashes by name."""
        digests = {}
        for name in self._names:
            partial, path = self._partial(name), self._root / name
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            digests[name] = file_digest(partial)
            os.replace(partial, path)
        folders = {(self._root / name).parent for name in self._names}
        for folder in folders | {folder.parent for folder in folders}:
            fsync_directory(folder)
        return digests

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        # What was committed has its own name by now.
        for name in self._names:
            self._partial(name).unlink(missing_ok=True)

    def _partial(self, name: str) -> Path:
        return self._root / f"{name}.partial"


class Stage(Protocol):
    """A step of the preparation, in items that any process can do alone once the stages before are done."""

    name: str
    unit: str
    """What the sizes of its items count, `progress.BYTES` for instance."""

    def items(self) -> Sequence[Item]:
        """Return the items; their order is the same in every process."""
        ...

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Do one item and return its counts; `advance` is called with how much of its size was done."""
        ...


def array_file(stage: Stage, name: str) -> str:
    """Return the name of the file of an array that a stage leaves, below the job's folder."""
    return f"{WORK}/{stage.name}/{name}.npy"


class Job:
    """A folder, the digest of the plan that fills it, and the processes at work."""

    def __init__(self, root: Path, plan_digest: str, workers: Workers) -> None:
        self.root = root
        self.workers = workers
        self._plan_digest = plan_digest

    def run(self, stage: Stage) -> list[Facts]:
        """Do what is left of a stage and return the facts of its items, in their order; every process calls this."""
        began = time.perf_counter()
        items = stage.items()
        mine = share(items, self.workers.rank, self.workers.count)
        whose = "" if self.workers.count == 1 else f" of the first of {self.workers.count} processes"
        size = sum(item.size for item in mine)
        with Meter(f"data: {stage.name}", size, stage.unit, shown=self.workers.rank == 0) as meter:
            for number, item in enumerate(mine):
                meter.note = f"{number} of {len(mine)} items{whose}"
                if self._is_done(stage, item):
                    meter.skip(item.size)
                    continue
                with meter.item(item.size) as advance:
                    self._do(stage, item, advance)
            meter.note = f"{len(mine)} of {len(mine)} items{whose}, and the others are waited for" if whose else ""
            self.workers.barrier()
        facts = self.workers.from_first(lambda: [self._facts(stage, item) for item in items])
        if items:
            logger.info(_line(stage.name, time.perf_counter() - began, facts))
        return facts

    def _do(self, stage: Stage, item: Item, advance: Advance) -> None:
        with Outputs(self.root) as outputs:
            counts = stage.work(item, outputs, advance)
            digests = outputs.commit()
        record = self._record(stage, item)
        record.parent.mkdir(parents=True, exist_ok=True)
        # As it is read again: JSON has no keys but strings.
        content = json.loads(json.dumps({"plan": self._plan_digest, "outputs": digests, "counts": counts}))
        write_json(record, content | {"digest": json_digest(content)})

    def _is_done(self, stage: Stage, item: Item) -> bool:
        try:
            record = json.loads(self._record(stage, item).read_bytes())
            # A record of an earlier version, which has no digest, is done again.
            return (
                record["digest"] == json_digest(record)
                and record["plan"] == self._plan_digest
                and all(file_digest(self.root / name) == digest for name, digest in record["outputs"].items())
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False

    def forget(self, stage: Stage, item: Item, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Have an item that is done be done again where what its record says no longer `holds`."""
        if self._is_done(stage, item) and not holds(self._facts(stage, item).counts):
            self._record(stage, item).unlink()

    def _facts(self, stage: Stage, item: Item) -> Facts:
        record = json.loads(self._record(stage, item).read_bytes())
        return Facts(item.name, record["outputs"], record["counts"])

    def _record(self, stage: Stage, item: Item) -> Path:
        return self.root / WORK / stage.name / f"{item.name}.json"


def _line(name: str, seconds: float, facts: list[Facts]) -> str:
    """The stage's line of the table."""
    sums: Counter[str] = Counter()
    for fact in facts:
        sums.update({key: value for key, value in fact.counts.items() if key.endswith(("_in", "_out"))})
    flows = [
        (f"{sums[f'{unit}_in']:,} -> " if f"{unit}_in" in sums else "") + f"{sums[f'{unit}_out']:,} {unit}"
        for unit in ("documents", "bytes", "tokens")
        if f"{unit}_out" in sums
    ]
    return f"data: {name:<10} {seconds:8.1f} s  {', '.join(flows)}".rstrip()
