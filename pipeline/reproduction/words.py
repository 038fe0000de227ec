"""By which code the runs of a results.md were made, and when."""

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline.reproduction.task import Task
from pipeline.runs import RunPaths

_REPOSITORY = Path(__file__).parents[2]


def provenance(tasks: Sequence[Task]) -> list[list[str]]:
    """By which code, and when; nothing outside a git checkout. The runs themselves record no commit."""
    if not (_REPOSITORY / ".git").exists():
        return []
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    described = done.stdout.strip()
    summaries = [RunPaths(task.run).summary for task in tasks]
    ends = [summary.stat().st_mtime for summary in summaries if summary.exists()]
    dates = sorted(
        [
            *(datetime.fromtimestamp(end, UTC).date().isoformat() for end in ends),
            *(task.known["date"] for task in tasks if task.known is not None),
        ]
    )
    when = f"; the first of the runs ended on {dates[0]}, the last on {dates[-1]} (UTC)" if dates else ""
    return [[f"Written at commit {described}{when}."]]
