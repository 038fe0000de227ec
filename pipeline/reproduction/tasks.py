"""A suite as runs: which recipe each has, where it lies, and which others it waits for."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from data_prep.manifest import PreparedData
from pipeline.common.errors import UserError
from pipeline.common.logs import without_messages
from pipeline.recipe import Recipe, read_ds_config
from pipeline.reproduction.final_losses import end_of
from pipeline.reproduction.recorded_ends import RecordedEnd, check_settings
from pipeline.reproduction.shared_steps import with_trunks
from pipeline.reproduction.suite import SOURCE_SEED, MethodConfig, Patch, Suite, recipe_of
from pipeline.reproduction.task import Sweep, Task
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.plan.workload import stage_flops
from pipeline.training.preparation.preparation import Planned, preview_run


class Tasks:
    """The runs of a suite in one directory."""

    def __init__(
        self,
        suite: Suite,
        directory: Path,
        data: Patch | None,
        ds_config: Path,
        recorded: Mapping[str, RecordedEnd] | None = None,
    ) -> None:
        """`data`, text or prepared shards, stands in place of the suite's own corpus where it is given.

        `recorded` has how runs ended that were made elsewhere, by their names.
        """
        self._recorded = recorded or {}
        self._suite = suite
        self._directory = directory
        self._base = suite.base | ({} if data is None else {"data": _instead(suite.base["data"], data)})
        self._ds_config = ds_config
        self._compute: dict[float, int] = {}
        self._stages: dict[tuple[str, float, float | None], list[Patch]] = {}
        self._planned: dict[tuple[str, float, float | None], Planned] = {}

    def sources(self, methods: Iterable[MethodConfig], seeds: Sequence[int]) -> dict[str, list[Task]]:
        """The small models that methods are grown from, one run for each seed, by the source's name."""
        needed = dict.fromkeys(method.grown_from for method in methods if method.grown_from is not None)
        return {
            name: [
                self._task(
                    f"source-{name}-seed{seed}",
                    SOURCE_SEED + seed,
                    self._with_steps(name, self._suite.sources[name], 1.0, None),
                )
                for seed in seeds
            ]
            for name in needed
        }

    def sweeps(self) -> dict[str, Sweep]:
        """The runs of the sweep at the first horizon by method and rate; nothing where there is but one rate."""
        suite = self._suite
        if len(suite.rates) == 1:
            return {}
        each = suite.sweep == "each"
        return {
            name: {
                rate: [
                    replace(
                        self._method(f"sweep-{f'{name}-' * each}{rate:g}-seed{seed}", name, method, seed, rate, *first),
                        may_diverge=True,
                    )
                    for seed in suite.tuning_seeds
                ]
                for rate in method.rates or suite.rates
            }
            for name, method in suite.methods.items()
            if each or name == suite.baseline
            for first in [((method.horizons or suite.horizons)[0], next(iter(method.lengths), None))]
        }

    def runs_of(
        self, methods: Mapping[str, MethodConfig], seeds: Sequence[int], rates: Mapping[str, float], horizon: float = 1.0
    ) -> dict[str, list[Task]]:
        """Each method's runs at a horizon by the method's title: for each seed one, or one for each of its lengths.

        `rates` has each method's, or the baseline's alone, which then is everyone's. What is not run at this horizon, and what
        was swept without finding a rate, is left out.
        """
        swept = self._suite.methods if self._suite.sweep == "each" and len(self._suite.rates) > 1 else {}
        return {
            method.title: [
                replace(
                    self._method(
                        f"{name}{_suffix(horizon, length)}-seed{seed}",
                        name,
                        method,
                        seed,
                        rates.get(name, rates[self._suite.baseline]),
                        horizon,
                        length,
                    ),
                    may_diverge=name != self._suite.baseline,
                )
                for seed in seeds
                for length in (method.lengths or (None,))
            ]
            for name, method in methods.items()
            if horizon in (method.horizons or self._suite.horizons) and (name not in swept or name in rates)
        }

    def shared(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
        """Return the runs of first steps that tasks have in common, and the tasks going on from them.

        Where the suite does not say `shared_steps` there are none.
        """
        if self._suite.shared_steps is None:
            return [], list(tasks)
        return with_trunks(tasks, self._course, self._suite.shared_steps)

    def _course(self, task: Task) -> Planned:
        key = task.method, task.horizon, task.length
        if not task.method:
            return planned(task.recipe, self._ds_config)
        if key not in self._planned:
            self._planned[key] = planned(task.recipe, self._ds_config)
        return replace(self._planned[key], recipe=task.recipe)

    def _method(
        self, name: str, key: str, method: MethodConfig, seed: int, rate: float, horizon: float, length: float | None
    ) -> Task:
        patch, common = self._with_steps(key, method.recipe, horizon, length), self._base.get("optimizer", {})
        optimizer = common | {"lr": rate} | patch.get("optimizer", {})
        if "lr" in common and "muon_lr" in optimizer:
            optimizer["muon_lr"] *= optimizer["lr"] / common["lr"]
        patch["optimizer"] = optimizer
        if method.grown_from is not None:
            patch["source"] = {"path": str(self._directory / "runs" / f"source-{method.grown_from}-seed{seed}")}
        task = self._task(name, seed, patch)
        recorded = check_settings(name, task.recipe, self._recorded)
        return replace(task, method=key, title=method.title, horizon=horizon, length=length, recorded=recorded)

    def _with_steps(self, key: str, patch: Patch, horizon: float, length: float | None) -> Patch:
        """A patch with the lengths of its stages as a recipe has them."""
        stages = patch.get("stages", self._base.get("stages"))
        if stages is None or not any("share" in stage or stage.get("rest") for stage in stages):
            return dict(patch)
        own, rest = in_steps(stages, horizon * (self._suite.steps or 1))
        which = key, horizon, length
        if rest is not None and length is not None and which not in self._stages:
            where = f"methods.{key}.lengths"
            recipe = recipe_of(self._base, {"run_dir": ""} | patch | {"stages": own}, where)
            compute = length * self._compute_at(horizon)
            steps = steps_of_rest(recipe, rest, compute, self._ds_config, f"{where}: {length:g} at the horizon {horizon:g}")
            self._stages[which] = [stage | ({"steps": steps} if stage["name"] == rest else {}) for stage in own]
        return patch | {"stages": self._stages.get(which, own)}

    def _compute_at(self, horizon: float) -> int:
        """The executed FLOPs that the baseline is expected to come to."""
        if horizon not in self._compute:
            key = self._suite.baseline
            patch = self._with_steps(key, self._suite.methods[key].recipe, horizon, None)
            recipe = recipe_of(self._base, {"run_dir": ""} | patch, f"methods.{key}")
            self._compute[horizon] = sum(flops_by_stage(recipe, self._ds_config).values())
        return self._compute[horizon]

    def _task(self, name: str, seed: int, patch: Patch) -> Task:
        task = Task(name, self._directory, recipe_of(self._base, {"run_dir": "", "seed": seed} | patch, name))
        return replace(task, recipe=task.recipe.model_copy(update={"run_dir": str(task.run)}))


def _instead(data: Patch, own: Patch) -> Patch:
    """A recipe's data from another corpus; shards come with their tokenizer."""
    replaced = ("text", "shards", "tokenizer") if "shards" in own else ("text", "shards")
    return {key: value for key, value in data.items() if key not in replaced} | own


def _suffix(horizon: float, length: float | None) -> str:
    return ("" if horizon == 1 else f"-x{horizon:g}") + ("" if length is None else f"-at{length:g}")


def swept_losses(sweep: Sweep) -> dict[float, list[float]]:
    """Return the final held-out losses of each rate's runs; infinity for a run without one."""
    losses = {rate: [None if task.diverged else end_of(task).loss for task in tasks] for rate, tasks in sweep.items()}
    return {rate: [math.inf if loss is None else loss for loss in of_rate] for rate, of_rate in losses.items()}


def best_rates(suite: Suite, sweeps: Mapping[str, Sweep]) -> dict[str, float]:
    """Return the rate of each method that was swept, of those for which there is one; raises UserError for the baseline."""
    if not sweeps:
        return {suite.baseline: suite.rates[0]}
    found = {}
    for name, sweep in sweeps.items():
        means = {rate: fmean(losses) for rate, losses in swept_losses(sweep).items()}
        best = min(means, key=means.__getitem__)
        if not math.isinf(means[best]):
            found[name] = best
    if suite.baseline not in found:
        runs = next(iter(sweeps[suite.baseline].values()))[0].run.parent
        raise UserError(f"{runs}: with no rate of the sweep did all runs end with a loss; lower the suite's rates")
    return found


def planned(recipe: Recipe, ds_config: Path) -> Planned:
    """Return a preview of a run, step by step, without looking at its text; raises UserError as the run itself does."""
    batch = {key: getattr(recipe, key) for key in ("train_batch_size", "train_micro_batch_size_per_gpu")}
    model = recipe.source.model
    if recipe.data.shards is not None and model is not None and model.vocab_size is None:
        model = model.model_copy(update={"vocab_size": PreparedData(Path(recipe.data.shards)).tokenizer.vocab_size})
        recipe = recipe.model_copy(update={"source": recipe.source.model_copy(update={"model": model})})
    # A suite's lengths are in steps, so that the size of the text, one token here, does not matter.
    with without_messages():
        return preview_run(recipe, read_ds_config(ds_config) | batch, RunDirectory(Path(recipe.run_dir)), 1, 1)


def flops_by_stage(recipe: Recipe, ds_config: Path) -> dict[str, int]:
    """Return the executed FLOPs that each train stage of a recipe is expected to come to, by its name."""
    run = planned(recipe, ds_config)
    return {
        plan.stage.name: stage_flops(recipe, run.config(plan.phase), plan).executed_total for plan in run.training_plan.stages
    }


def in_steps(stages: list[dict[str, Any]], horizon: float) -> tuple[list[dict[str, Any]], str | None]:
    """Return a suite's stages as a recipe's, shares being of `horizon` steps, and the name of the one that takes the rest.

    That one has a single step.
    """
    found, rest = [], None
    for stage in stages:
        own = dict(stage)
        if "share" in own:
            own["steps"] = max(1, round(own.pop("share") * horizon))
        if own.pop("rest", False):
            own["steps"], rest = 1, own["name"]
        found.append(own)
    return found, rest


def steps_of_rest(recipe: Recipe, rest: str, compute: float, ds_config: Path, where: str) -> int:
    """Return the steps of the stage `rest`, which has one in the recipe, with which the run comes nearest to `compute`.

    That is in executed FLOPs. Raises UserError, beginning with `where`, where the other stages alone come to more.
    """
    spent = flops_by_stage(recipe, ds_config)
    one = spent.pop(rest)
    steps = round((compute - sum(spent.values())) / one)
    if steps < 1:
        raise UserError(
            f"{where}: the other stages come to {sum(spent.values()):.3g} FLOPs, which leaves no step of {rest} of the "
            f"{compute:.3g} that the run may have; make them shorter, or `lengths` larger"
        )
    return steps
