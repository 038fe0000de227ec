"""A suite as runs: which recipe each has, where it lies, and which others it waits for."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from data_prep.errors import UserError
from data_prep.files import write_atomically
from pipeline.recipe import Recipe
from pipeline.report.recorded import read_run
from pipeline.reproduction.suite import SOURCE_SEED, TUNING_SEEDS, MethodConfig, Patch, Suite, recipe_of
from pipeline.runs import RunPaths


@dataclass(frozen=True)
class Task:
    """One run."""

    name: str
    directory: Path
    """Where it runs, and what it is called there is its name."""
    recipe: Recipe
    may_diverge: bool = False
    """Whether a run that its guard gives up has told what was asked of it."""

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.directory / "runs" / self.name

    @property
    def recipe_file(self) -> Path:
        """What launch/pretrain.py is given."""
        return self.directory / "recipes" / f"{self.name}.yaml"

    @property
    def log(self) -> Path:
        """What launch/pretrain.py says."""
        return self.directory / "logs" / f"{self.name}.log"

    @property
    def ended(self) -> bool:
        """Whether the run is finished, or given up where it may be."""
        return RunPaths(self.run).summary.exists() or self.diverged

    @property
    def diverged(self) -> bool:
        """Whether the run was given up and is not to be tried again."""
        return self._mark.exists()

    def mark_diverged(self) -> None:
        """Have it so; the mark goes with the run directory."""
        self.run.mkdir(parents=True, exist_ok=True)
        self._mark.touch()

    @property
    def _mark(self) -> Path:
        return self.run / "diverged"

    def write(self) -> None:
        """Write the recipe; raises UserError where the run was begun with another one, or grown from an earlier source."""
        self._refuse_another_source()
        content = self.recipe.to_yaml()
        if self.run.exists() and self.recipe_file.exists() and self.recipe_file.read_text(encoding="utf-8") != content:
            raise UserError(
                f"{self.recipe_file}: {self.run} was begun with these settings, which the suite no longer has; remove that "
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
                f"{self.run}: was grown before {source.path} was trained anew; remove that run, and the others grown from "
                "there, or name another directory with --out"
            )


class Tasks:
    """The runs of a suite in one directory."""

    def __init__(self, suite: Suite, directory: Path, text: Patch | None) -> None:
        """`text` stands in place of the suite's own corpus where it is given."""
        self._suite = suite
        self._directory = directory
        self._base = suite.base | ({} if text is None else {"data": suite.base["data"] | {"text": text}})

    def sources(self, methods: Iterable[MethodConfig], seeds: Sequence[int]) -> dict[str, list[Task]]:
        """The small models that methods are grown from, one run for each seed, by the source's name."""
        needed = dict.fromkeys(method.grown_from for method in methods if method.grown_from is not None)
        return {
            name: [self._task(f"source-{name}-seed{seed}", SOURCE_SEED + seed, self._suite.sources[name]) for seed in seeds]
            for name in needed
        }

    def sweep(self) -> dict[float, list[Task]]:
        """The baseline with each rate of the sweep; nothing where there is but one."""
        if len(self._suite.rates) == 1:
            return {}
        baseline = self._suite.methods[self._suite.baseline]
        return {
            rate: [
                replace(self._method(f"sweep-{rate:g}-seed{seed}", baseline, seed, rate), may_diverge=True)
                for seed in TUNING_SEEDS
            ]
            for rate in self._suite.rates
        }

    def runs_of(self, methods: Mapping[str, MethodConfig], seeds: Sequence[int], rate: float) -> dict[str, list[Task]]:
        """Each method's runs, one for each seed, by the method's title."""
        return {
            method.title: [
                replace(self._method(f"{name}-seed{seed}", method, seed, rate), may_diverge=name != self._suite.baseline)
                for seed in seeds
            ]
            for name, method in methods.items()
        }

    def _method(self, name: str, method: MethodConfig, seed: int, rate: float) -> Task:
        patch = dict(method.recipe)
        patch["optimizer"] = self._base.get("optimizer", {}) | {"lr": rate} | patch.get("optimizer", {})
        if method.grown_from is not None:
            patch["source"] = {"path": str(self._directory / "runs" / f"source-{method.grown_from}-seed{seed}")}
        return self._task(name, seed, patch)

    def _task(self, name: str, seed: int, patch: Patch) -> Task:
        task = Task(name, self._directory, recipe_of(self._base, {"run_dir": "", "seed": seed} | patch, name))
        return replace(task, recipe=task.recipe.model_copy(update={"run_dir": str(task.run)}))


def swept_losses(sweep: Mapping[float, Sequence[Task]]) -> dict[float, list[float]]:
    """Return the final held-out losses of each rate's runs; infinity for a run without one."""
    return {rate: [_last_loss(task) for task in tasks] for rate, tasks in sweep.items()}


def _last_loss(task: Task) -> float:
    loss = None if task.diverged else read_run(task.run).final_loss
    return math.inf if loss is None else loss


def best_rate(suite: Suite, sweep: Mapping[float, Sequence[Task]]) -> float:
    """Return the rate with which the baseline ended lowest; raises UserError where with none all runs have a loss."""
    if not sweep:
        return suite.rates[0]
    means = {rate: fmean(losses) for rate, losses in swept_losses(sweep).items()}
    best = min(means, key=means.__getitem__)
    if math.isinf(means[best]):
        runs = next(iter(sweep.values()))[0].run.parent
        raise UserError(f"{runs}: with no rate of the sweep did all runs end with a loss; lower the suite's rates")
    return best
