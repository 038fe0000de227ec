"""The run directory: whose it is, what it holds, whether a recipe may go on in it."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import UserError
from data_prep.files import write_atomically
from pipeline.recipe import SOURCE_STAGE, UNITS, Recipe, TrainStage
from pipeline.runs import RunPaths
from pipeline.training.checkpoints import Saved
from pipeline.training.ds_config import same_run
from pipeline.training.timeline import phases_of

_MAY_CHANGE = (
    "run_dir",
    "checkpointing",
    "guard",
    "flops.peak_tflops",
    "evaluation.tasks",
    "evaluation.data",
    "evaluation.tasks_every",
    "evaluation.tasks_limit",
    "evaluation.tasks_token_every",
)
"""Keys of a recipe, sections with all that is in them, that change no step of its run; a run directory may be moved."""

_VISIBLE_SECONDS = 120
"""How long a network's file system may keep a new file from another node: NFS does for up to a minute."""


class RunDirectory(RunPaths):
    """Paths of one run, and the settings that it was begun with."""

    def check_shared(self) -> None:
        """Check that this rank sees the directory that the first rank has locked, and may write to it; leaves nothing.

        Raises UserError, or OSError where the directory may not be written to.
        """
        deadline = time.monotonic() + _VISIBLE_SECONDS
        while not self.lock.exists():
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self.path}: not the directory that the first rank works in; name a run_dir that all nodes share"
                )
            time.sleep(0.1)
        # Asking for permission is not enough on a network's file system.
        with tempfile.TemporaryFile(dir=self.path):
            pass

    def check(self, recipe: Recipe, ds_config: dict[str, Any], saved: Saved | None) -> None:
        """Check that this recipe may run here, writing nothing.

        Raises UserError where the directory belongs to another recipe or another way of running; stages
        may be longer than before as long as they are not over, and what changes no step of the run may differ.
        """
        if not self.recipe.exists():
            foreign = [path.name for path in self.path.iterdir() if path.name.removesuffix(".partial") not in self._own_names]
            if foreign:
                raise UserError(
                    f"{self.path}: the directory holds something else ({foreign[0]}); name an empty or a new one as run_dir"
                )
            return
        self._check_recipe(recipe, saved)
        self._check_ds_config(ds_config)

    @property
    def _own_names(self) -> set[str]:
        return {path.name for path in vars(self).values() if path.parent == self.path}

    def recorded_data(self) -> dict[str, Any] | None:
        """Return what `claim` was told, if the run was begun: folder (`prepared`), `fingerprint`, `weights`, `steps`."""
        return json.loads(self.data.read_text(encoding="utf-8")) if self.recipe.exists() else None

    def check_data(self, data: dict[str, Any]) -> None:
        """Raise UserError where the run was begun with other weights of its corpora."""
        recorded = self.recorded_data()
        for stream, weights in data["weights"].items():
            before = weights if recorded is None else recorded["weights"].get(stream, weights)
            if weights != before:
                raise UserError(
                    f"{data['prepared']}: the run was begun with the weights {before}, and now they are {weights}; go on with "
                    "those, or name another run_dir"
                )

    def finished_summary(self, recipe: Recipe) -> dict[str, Any] | None:
        """Return the summary if it is of this recipe's last step: that of a run since lengthened is not."""
        if not self.summary.exists():
            return None
        summary = json.loads(self.summary.read_text(encoding="utf-8"))
        return summary if summary["lengths"] == self.lengths(recipe) else None

    @staticmethod
    def lengths(recipe: Recipe) -> dict[str, list[str | float] | None]:
        """Return how long the source and each train stage are: unit and number."""
        named = {SOURCE_STAGE: recipe.source} | {stage.name: stage for stage in recipe.stages if isinstance(stage, TrainStage)}
        return {name: None if stage.length is None else list(stage.length) for name, stage in named.items()}

    def claim(self, recipe: Recipe, ds_config: dict[str, Any], data: dict[str, Any]) -> None:
        """Make the directory this recipe's; the recipe, written last, says that it is."""
        self.checkpoints.mkdir(exist_ok=True)
        self.certificates.mkdir(exist_ok=True)
        self._record(self.data, json.dumps(data, indent=2) + "\n")
        self._record(self.ds_config, json.dumps(ds_config, indent=2) + "\n")
        self._record(self.recipe, recipe.to_yaml())

    def abandon(self) -> None:
        """Remove the directory where nothing was begun in it."""
        if [path.name for path in self.path.iterdir()] == [self.lock.name]:
            self.lock.unlink()
            self.path.rmdir()

    @staticmethod
    def _record(path: Path, text: str) -> None:
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text)

    def _check_recipe(self, recipe: Recipe, saved: Saved | None) -> None:
        try:
            old = Recipe.model_validate(yaml.safe_load(self.recipe.read_text(encoding="utf-8"))).model_dump(mode="json")
        except (ValueError, yaml.YAMLError):
            raise UserError(f"{self.recipe}: not a run's own recipe; name an empty or a new directory as run_dir") from None
        new = recipe.model_dump(mode="json")
        self._check_lengths(self.lengths(Recipe.model_validate(old)), recipe, saved)
        for dump in (old, new):
            _drop_lengths(dump)
        for key, _ in sorted(_paths(old).items() ^ _paths(new).items(), key=str):
            if any(f"{key}.".startswith(f"{free}.") for free in _MAY_CHANGE):
                continue
            raise UserError(
                f"{self.recipe}: the run directory belongs to a recipe that differs in {key}; "
                "name another run_dir, or go on with the recipe it was begun with"
            )

    def _check_lengths(self, before: dict[str, list[str | float] | None], recipe: Recipe, saved: Saved | None) -> None:
        """Raise UserError where a stage has become shorter, is counted otherwise, or is longer though it is over."""
        now, steps, reached = self.lengths(recipe), self.recorded_data()["steps"], 0
        for phase in phases_of(recipe):
            for stage in phase.stages:
                reached += steps.get(stage.name, 0)
                old, new = before.get(stage.name), now[stage.name]
                if old is None or old == new:
                    continue
                over = saved is not None and (saved.step > reached or saved.phase > phase.number)
                if old[0] != new[0] or new[1] < old[1] or over:
                    raise UserError(
                        f"{self.recipe}: the stage {stage.name!r} had {old[1]:g} {old[0]} and now has {new[1]:g} {new[0]}; a "
                        "stage may be lengthened while it is not over, and never shortened"
                    )

    def _check_ds_config(self, ds_config: dict[str, Any]) -> None:
        old = same_run(json.loads(self.ds_config.read_text(encoding="utf-8")))
        for key, _ in sorted(_paths(old).items() ^ _paths(same_run(ds_config)).items(), key=str):
            raise UserError(
                f"{self.ds_config}: the run was begun with another {key}; go on with the DeepSpeed configuration "
                "that it was begun with, or name another run_dir"
            )


def _drop_lengths(recipe: dict[str, Any]) -> None:
    for stage in (recipe["source"], *recipe["stages"]):
        for unit in UNITS:
            stage.pop(unit, None)


def _paths(value: Any, prefix: str = "") -> dict[str, str]:
    """A nested value as dotted paths to leaves."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix: repr(value)}
    return {path: leaf for key, item in items for path, leaf in _paths(item, f"{prefix}.{key}".lstrip(".")).items()}
