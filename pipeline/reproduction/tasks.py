"""A suite as runs: which recipe each has, where it lies, and which others it waits for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
        """Whether the run is finished."""
        return RunPaths(self.run).summary.exists()

    def write(self) -> None:
        """Write the recipe; raises UserError where the run was begun with another one."""
        content = self.recipe.to_yaml()
        if self.run.exists() and self.recipe_file.exists() and self.recipe_file.read_text(encoding="utf-8") != content:
            raise UserError(
                f"{self.recipe_file}: {self.run} was begun with these settings, which the suite no longer has; remove that "
                "run, or name another directory with --out"
            )
        self.recipe_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.recipe_file, content)


class Tasks:
    """The runs of a suite in one directory."""

    def __init__(self, suite: Suite, directory: Path, text: Patch | None) -> None:
        """`text` stands in place of the suite's own corpus where it is given."""
        self._suite = suite
        self._directory = directory
        self._base = suite.base | ({} if text is None else {"data": suite.base["data"] | {"text": text}})

    def sources(self, methods: Iterable[MethodConfig], seeds: Sequence[int]) -> list[Task]:
        """The small models that methods are grown from, for each seed."""
        needed = dict.fromkeys(method.grown_from for method in methods if method.grown_from is not None)
        return [
            self._task(f"source-{name}-seed{seed}", SOURCE_SEED + seed, self._suite.sources[name])
            for seed in seeds
            for name in needed
        ]

    def sweep(self) -> dict[float, list[Task]]:
        """The baseline with each rate of the sweep; nothing where there is but one."""
        if len(self._suite.rates) == 1:
            return {}
        baseline = self._suite.methods[self._suite.baseline]
        return {
            rate: [self._method(f"sweep-{rate:g}-seed{seed}", baseline, seed, rate) for seed in TUNING_SEEDS]
            for rate in self._suite.rates
        }

    def methods(self, seeds: Sequence[int], rate: float) -> dict[str, list[Task]]:
        """Each method's runs, one for each seed, by the method's title."""
        return {
            method.title: [self._method(f"{name}-seed{seed}", method, seed, rate) for seed in seeds]
            for name, method in self._suite.methods.items()
        }

    def ablations(self, seed: int, rate: float) -> dict[str, list[Task]]:
        """Each ablation's one run, by its title."""
        return {
            method.title: [self._method(f"{name}-seed{seed}", method, seed, rate)]
            for name, method in self._suite.ablations.items()
        }

    def _method(self, name: str, method: MethodConfig, seed: int, rate: float) -> Task:
        patch = dict(method.recipe)
        patch["optimizer"] = self._base.get("optimizer", {}) | {"lr": rate} | patch.get("optimizer", {})
        if method.grown_from is not None:
            patch["source"] = {"path": str(self._directory / "runs" / f"source-{method.grown_from}-seed{seed}")}
        return self._task(name, seed, patch)

    def _task(self, name: str, seed: int, patch: Patch) -> Task:
        task = Task(name, self._directory, recipe_of(self._base, {"run_dir": "", "seed": seed} | patch, name))
        recipe = task.recipe.model_copy(update={"run_dir": str(task.run)})
        return Task(name, self._directory, recipe)


def swept_losses(sweep: Mapping[float, Sequence[Task]]) -> dict[float, list[float]]:
    """Return the final held-out losses of each rate's runs, those without one left out."""
    losses = {rate: [read_run(task.run).final_loss for task in tasks] for rate, tasks in sweep.items()}
    return {rate: [loss for loss in found if loss is not None] for rate, found in losses.items()}


def best_rate(suite: Suite, sweep: Mapping[float, Sequence[Task]]) -> float:
    """Return the rate with which the baseline ended lowest; raises UserError where no rate's runs all have a loss."""
    if not sweep:
        return suite.rates[0]
    means = {rate: fmean(losses) for rate, losses in swept_losses(sweep).items() if len(losses) == len(sweep[rate])}
    if not means:
        runs = next(iter(sweep.values()))[0].run.parent
        raise UserError(f"{runs}: no rate of the sweep ended with a loss in all its runs; lower the suite's rates")
    return min(means, key=means.__getitem__)
