"""One run of a suite: its recipe, where it lies, and how far it has come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically
from pipeline.recipe import Recipe, load_recipe
from pipeline.reproduction.recorded_ends import RecordedEnd
from pipeline.runs import RunPaths


@dataclass(frozen=True)
class Task:
    """One run."""

    name: str
    directory: Path
    """Where it runs, and what it is called there is its name."""
    recipe: Recipe
    may_diverge: bool = False
    """Whether a run that its guard gives up counts as ended."""
    method: str = ""
    """The key of the suite's method; none of a source, and of steps that several runs share."""
    title: str = ""
    """The method's."""
    horizon: float = 1.0
    length: float | None = None
    """The compute that its whole run was to have, in units of the baseline's; None where its stages say how long they are."""
    trunk: "Task | None" = None
    """The run from whose end it goes on."""
    recorded: RecordedEnd | None = None
    """How it ended, where it was run elsewhere; it is not run here then."""

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.directory / "runs" / self.name

    @property
    def recipe_file(self) -> Path:
        """The recipe of the run."""
        return self.directory / "recipes" / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.directory / "logs" / f"{self.name}.log"

    @property
    def ended(self) -> bool:
        """Whether the run is finished, or given up where it may be."""
        return self.recorded is not None or RunPaths(self.run).summary.exists() or self.diverged

    @property
    def ready(self) -> bool:
        """Whether the run from whose end it goes on has ended."""
        return self.trunk is None or self.trunk.ended

    @property
    def diverged(self) -> bool:
        """Whether the run was given up and is not to be tried again."""
        return self._mark.exists() if self.recorded is None else self.recorded["diverged"]

    @property
    def rewound(self) -> bool:
        """Whether the run went back to a checkpoint, so that another run would not make the same steps."""
        return RunPaths(self.run).rewound.exists()

    def mark_diverged(self) -> None:
        """Have it so; the mark goes with the run directory."""
        self.run.mkdir(parents=True, exist_ok=True)
        self._mark.touch()

    @property
    def _mark(self) -> Path:
        return self.run / "diverged"

    def write(self) -> None:
        """Write the recipe; raises UserError where the run was started with another one, or grown from an earlier source."""
        self._refuse_another_source()
        content = self.recipe.to_yaml()
        if self.run.exists() and self.recipe_file.exists() and load_recipe(self.recipe_file, []) != self.recipe:
            raise UserError(
                f"{self.recipe_file}: {self.run} was started with these settings, which the suite no longer has; remove that "
                "run, or name another directory with --out"
            )
        self.recipe_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.recipe_file, content)

    def _refuse_another_source(self) -> None:
        if self.recipe.source.path is None:
            return
        source = RunPaths(Path(self.recipe.source.path))
        grown = RunPaths(self.run).certificate(1)
        # The certificate is written once, when the source is read.
        if grown.exists() and source.summary.exists() and grown.stat().st_mtime < source.summary.stat().st_mtime:
            raise UserError(
                f"{self.run}: was grown before {source.path} was trained again; remove that run, and the others grown from "
                "there, or name another directory with --out"
            )


Sweep = Mapping[float, Sequence[Task]]
"""The runs of one method by their peak rate."""


def all_tasks(found: Mapping[Any, Mapping[Any, Sequence[Task]]]) -> list[Task]:
    """Return the tasks of sweeps by method and rate, or of runs by horizon and method."""
    return [task for runs in found.values() for of_one in runs.values() for task in of_one]
