"""results.md: what all suites' pages have alike: by which code runs were made, which diverged, and numbers in words."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from pipeline.common.files import write_atomically
from pipeline.report import prose
from pipeline.report.figures import Plot, write_figures, write_rows
from pipeline.report.methods import spread
from pipeline.reproduction.recorded_ends import RecordedEnd
from pipeline.reproduction.suite import Suite
from pipeline.reproduction.task import Sweep, Task
from pipeline.runs import RunPaths

_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class SuiteRuns:
    """A suite's runs, finished or not."""

    suite: Suite
    title: str
    jobs: int
    """Runs that share the machine at a time."""
    rates: Mapping[str, float]
    """By the methods' keys; the baseline's alone where everyone takes it."""
    sweeps: Mapping[str, Sweep]
    """Likewise."""
    horizons: Mapping[float, Mapping[str, Sequence[Task]]]
    """The runs at each horizon by the methods' titles."""
    sources: Mapping[str, Sequence[Task]] = field(default_factory=dict)
    """By their names."""
    recorded: Mapping[str, RecordedEnd] = field(default_factory=dict)
    """How runs ended elsewhere, by their names."""

    @property
    def baseline(self) -> str:
        """The title of the method from scratch."""
        return self.suite.methods[self.suite.baseline].title


def write_page(directory: Path, title: str, jobs: int, tasks: Sequence[Task], parts: Sequence[list[str]]) -> None:
    """Write results.md: its head, and below it parts, each of some lines."""
    head = [[f"## {title}"], *provenance(tasks)]
    if jobs > 1:
        head.append([f"{jobs} runs shared the machine at a time; times are not comparable."])
    write_atomically(directory / "results.md", "\n\n".join("\n".join(part) for part in [*head, *parts]) + "\n")


def write_report(place: Path, plots: Sequence[Plot], html: str | None = None) -> None:
    """Write figures with their rows, and report.html where there is one."""
    place.mkdir(parents=True, exist_ok=True)
    if html is not None:
        write_atomically(place / "report.html", html)
    write_figures(place / "figures", plots)
    write_rows(place / "rows", plots)


def diverged_part(tasks: Iterable[Task]) -> list[list[str]]:
    """The sentence that names the runs that diverged; nothing where none did."""
    names = [task.name for task in tasks if task.diverged]
    return [[f"Diverged, and left out of all figures: {', '.join(names)}."]] if names else []


def mean_in_words(values: Sequence[float], count: int, unit: str, form: str = "{:.4f}") -> str:
    """The mean of values and their deviation, and of how many of `count` runs or seeds they are where not of all."""
    if not values:
        return "none"
    mean, deviation = spread(values)
    text = form.format(mean).replace("-", "−") + ("" if deviation is None else f" ± {deviation:.4f}")
    return text if len(values) == count else f"{text} ({len(values)} of {count} {unit})"


def percents(shares: Iterable[float | None]) -> str:
    """Shares in whole percent, a dash for each that is not known."""
    return ", ".join("–" if share is None else f"{100 * share:.0f}".replace("-", "−") for share in shares)


def signed(value: float) -> str:
    """A difference of losses, in nats."""
    return f"{value:+.3f}".replace("-", "−")


def paragraphs(macro: str, *facts: object) -> list[str]:
    """Return what a macro of templates/results.txt says."""
    return prose.paragraphs(_TEMPLATES, "results.txt", macro, *facts)


_TEMPLATES = prose.templates("pipeline.reproduction", mean=fmean, signed=signed)


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
            *(task.recorded["date"] for task in tasks if task.recorded is not None),
        ]
    )
    when = f"; the first of the runs ended on {dates[0]}, the last on {dates[-1]} (UTC)" if dates else ""
    return [[f"Written at commit {described}{when}."]]
