"""The steps of a run as metrics.jsonl has them: in order, and where some are missing, which."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.runs.json_lines import JsonLines
from pipeline.runs.records import StepRecord


class StepLines(JsonLines[StepRecord]):
    """metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, StepRecord)

    def read(self, *, ended: bool = False) -> list[StepRecord]:
        """Return the steps on record, as JsonLines does.

        Raises UserError, which names the line, where one is damaged or does not come after the one before.
        """
        records = super().read(ended=ended)
        last = 0
        for number, record in enumerate(records, 1):
            if record["step"] <= last:
                raise UserError(
                    f"{self.path}: line {number}: step {record['step']} stands after step {last}; put the file back as it was "
                    "written, or remove that line"
                )
            last = record["step"]
        return records


def missing_steps(records: Sequence[StepRecord], last: int) -> list[tuple[int, int]]:
    """Return which steps up to `last` are not on record: the first and the last of each gap."""
    steps = [0, *(record["step"] for record in records if record["step"] <= last), last + 1]
    return [(before + 1, after - 1) for before, after in itertools.pairwise(steps) if after - before > 1]


def missing_words(gaps: Sequence[Sequence[int]]) -> str:
    """Return gaps as a few words, empty where there are none."""
    shown = [f"{first:,}" if first == last else f"{first:,} to {last:,}" for first, last in gaps[:_SHOWN]]
    more = f" and {len(gaps) - _SHOWN} more gaps" if len(gaps) > _SHOWN else ""
    return ", ".join(shown) + more


_SHOWN = 6
