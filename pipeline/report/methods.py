"""Runs as methods: those that differ by chance alone are one."""

import itertools
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.common.errors import UserError
from pipeline.report import prose
from pipeline.report.recorded import RecordedRun
from pipeline.report.savings import Curve, Reference, Saving, reference, saving

_OF_CHANCE = ("seed", "run_dir")
"""Keys of a recipe in which the runs of one method may differ."""

_OF_DEEPSPEED = ("train_batch_size", "bf16", "fp16", "gradient_clipping")
"""Keys of DeepSpeed's configuration in which they may not: what the others say changes no loss but by rounding."""

_NOTHING = ("null", "[]", "{}")
"""Empty settings, as JSON."""


class View(NamedTuple):
    """One way of counting what was spent: from the first growth on, or with what the source cost before."""

    quantity: str
    with_source: bool = False

    @property
    def name(self) -> str:
        """Its name in files."""
        return f"{self.quantity}-with-source" if self.with_source else self.quantity

    @property
    def counted(self) -> str:
        """What it counts, in words."""
        return "with the source's own training" if self.with_source else "from the growth on"


COMPUTE, COMPUTE_WITH_SOURCE = View("flops"), View("flops", with_source=True)


@dataclass(frozen=True)
class Method:
    """A way of training, and its runs."""

    name: str
    runs: list[RecordedRun]

    @property
    def from_scratch(self) -> bool:
        """Whether nothing is grown in it."""
        return all(run.from_scratch for run in self.runs)

    @property
    def grown_run(self) -> RecordedRun:
        """The first run that grows something, which stands for the method; the first one where none does."""
        return next((run for run in self.runs if not run.from_scratch), self.runs[0])

    @property
    def ended(self) -> bool:
        """Whether any run has, so that there is a final loss."""
        return any(run.ended for run in self.runs)

    @property
    def settled(self) -> "Method":
        """This method with the runs that its final loss is a mean over: of those that have ended, or of all where none has,
        those that have one."""
        runs = [run for run in self.runs if run.ended] or self.runs
        return Method(self.name, [run for run in runs if run.final_loss is not None])

    @property
    def final_losses(self) -> list[float]:
        """The last held-out loss of each settled run."""
        return [run.final_loss for run in self.settled.runs if run.final_loss is not None]

    def reference(self, view: View) -> Reference | None:
        """Return what savings are measured against where this method is the baseline; None where nothing was evaluated."""
        return reference(self.settled.curves(view))

    def saving(self, view: View, baseline: "Method") -> Saving | None:
        """Return what this method saved against a baseline; None where its cost is not known."""
        against, curves = baseline.reference(view), self.curves(view)
        return None if against is None or not curves else saving(curves, against)

    def curves(self, view: View, *, whole: bool = False) -> list[Curve]:
        """Return each run's held-out losses against what it had spent; none where the source's cost is not known.

        The model is the one that the recipe ends with, and with `whole` all those that it grew on the way.
        """
        curves = []
        for run in self.runs:
            before: float | None = 0.0 if view.with_source else -run.source_spent[view.quantity]
            if view.with_source and run.recipe.source.path is not None:
                before = run.inherited_flops if view.quantity == "flops" else None
            if before is None:
                return []
            records = run.grown_evaluations if whole else run.target_evaluations
            spent = tuple(run.spent(record.step)[view.quantity] + before for record in records)
            curves.append(Curve(spent, tuple(record.loss for record in records)))
        return curves


def group(named: Sequence[tuple[str | None, RecordedRun]]) -> list[Method]:
    """Return the methods that runs belong to, in their order.

    Runs are of one method where they were given the same name, or, both unnamed, where their recipes differ in the seed and
    the run directory alone and DeepSpeed's configurations agree in batch, precision and clipping. Raises UserError where the
    same directory is given twice.
    """
    paths = [run.path.resolve() for _, run in named]
    for path, (_, run) in zip(paths, named, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{run.path}: the run is named twice; leave one out")
    found: dict[tuple[str, ...], list[RecordedRun]] = {}
    for name, run in named:
        found.setdefault(_identity(run) if name is None else (name,), []).append(run)
    names = [key[0] if len(key) == 1 else _common_name(runs) for key, runs in found.items()]
    return [
        Method(name if len(key) == 1 or names.count(name) == 1 else str(runs[0].path), runs)
        for name, (key, runs) in zip(names, found.items(), strict=True)
    ]


def baseline_of(methods: Sequence[Method], name: str | None) -> tuple[Method | None, str]:
    """Return the method that savings are measured against and no reason, or None and the reason in a sentence.

    `name` chooses one, else it is the only one that was trained from scratch. Raises UserError where none is called `name`.
    """
    if name is not None:
        for method in methods:
            if method.name == name:
                return method, ""
        raise UserError(f"--baseline: no method is called {name!r}; choose {', '.join(method.name for method in methods)}")
    scratch = [method for method in methods if method.from_scratch]
    if len(scratch) == 1:
        return scratch[0], ""
    return None, prose.text("comparison", "no_baseline", scratch)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation of a sample, None of fewer than two."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def settings_of(run: RecordedRun) -> dict[str, str]:
    """Return each setting of a run's recipe and of DeepSpeed's configuration by its path, as JSON; stages by their names."""
    recipe = run.recipe.model_dump(mode="json")
    stages = {f"stage {stage.pop('name')}": stage for stage in recipe.pop("stages")}
    order = {"order of stages": ", ".join(name.removeprefix("stage ") for name in stages)}
    return _flat(recipe) | order | _flat(stages) | _flat(run.ds_config or {}, "ds_config")


def differing(settings: Sequence[dict[str, str]]) -> list[str]:
    """Return the settings in which runs differ, but by chance.

    Where one run has no such stage, or nothing where another has a whole object, that stage or object is one setting.
    """
    partial = _partial(settings)
    found: dict[str, None] = {}
    for key in dict.fromkeys(key for one in settings for key in one):
        # Where there are other stages, their order is another of itself.
        chance = key in _OF_CHANCE or (key == "order of stages" and any(name.startswith("stage ") for name in partial))
        if not chance and len({one.get(key, "null") for one in settings}) > 1:
            whole = next((parent for parent in _parents(key) if parent in partial), key)
            found[whole] = None
    return list(found)


def _partial(settings: Sequence[dict[str, str]]) -> set[str]:
    """The stages and objects that some have and others have not."""
    parents = [{parent for key in one for parent in _parents(key)[:-1]} for one in settings]
    return {
        parent
        for parent in parents[0].union(*parents) - parents[0].intersection(*parents)
        if parent.startswith("stage ") or any(one.get(parent) in _NOTHING for one in settings)
    }


def _parents(key: str) -> list[str]:
    """A path and all that it lies in, the outermost first."""
    return [".".join(key.split(".")[:length]) for length in range(1, key.count(".") + 2)]


def differing_settings(methods: Sequence[Method]) -> list[dict[str, str]]:
    """Return the settings in which the methods' recipes differ, a row each: what it is in each method, by its name."""
    settings = [settings_of(method.runs[0]) for method in methods]
    names = [method.name for method in methods]
    return [
        {"setting": key} | {name: _chosen(one, key) for name, one in zip(names, settings, strict=True)}
        for key in differing(settings)
    ]


def _chosen(settings: dict[str, str], key: str) -> str:
    """A setting, or all that a stage or another object says where other methods have none."""
    inner = {path.removeprefix(f"{key}."): value for path, value in settings.items() if path.startswith(f"{key}.")}
    if inner:
        return ", ".join(f"{path} {value}" for path, value in inner.items() if value not in _NOTHING)
    return settings.get(key, "absent" if key.startswith("stage ") and "." not in key else "–")


def mixed(method: Method) -> list[str]:
    """Return the settings in which the runs of a method differ that they may not differ in."""
    return [
        key
        for key in differing([settings_of(run) for run in method.runs])
        if not key.startswith("ds_config.") or key.split(".")[1] in _OF_DEEPSPEED
    ]


def _flat(value: object, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, item in items for path, leaf in _flat(item, f"{prefix}.{key}".lstrip(".")).items()}
    return {prefix: json.dumps(value)}


def _identity(run: RecordedRun) -> tuple[str, ...]:
    content: dict[str, Any] = run.recipe.model_dump(mode="json")
    deepspeed = run.ds_config or {}
    return (
        *(f"{key}: {value}" for key, value in content.items() if key not in _OF_CHANCE),
        *(f"{key}: {json.dumps(deepspeed.get(key), sort_keys=True)}" for key in _OF_DEEPSPEED),
    )


def _common_name(runs: Sequence[RecordedRun]) -> str:
    """What the directories' names begin with alike, without the number of the seed behind it."""
    names = [run.path.resolve().name for run in runs]
    if len(names) == 1:
        return names[0]
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in alike).rstrip("0123456789")
    return re.sub(r"([-_. ]+s)?([-_. ]+seed)?[-_. ]*$", "", common) or names[0]
