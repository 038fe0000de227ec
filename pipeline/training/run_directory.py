"""The run directory: whose it is, what it holds, whether a recipe may go on in it."""

import json
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import UserError
from data_prep.files import write_atomically
from pipeline.growth.sources import CHECKPOINTS
from pipeline.recipe import Recipe
from pipeline.training.checkpoints import Saved
from pipeline.training.ds_config import same_run


class RunDirectory:
    """Paths of one run, and the settings that it was begun with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / ".lock"
        self.recipe = path / "recipe.yaml"
        self.ds_config = path / "ds_config.json"
        self.data = path / "data.json"
        self.metrics = path / "metrics.jsonl"
        self.evaluations = path / "eval.jsonl"
        self.checkpoints = path / CHECKPOINTS
        self.source_model = path / "source_model"
        self.model = path / "model"
        self.certificate = path / "certificates" / "00.json"
        self.summary = path / "summary.json"

    def check(self, recipe: Recipe, ds_config: dict[str, Any], saved: Saved | None) -> None:
        """Check that this recipe may run here, writing nothing.

        Raises UserError where the directory belongs to another recipe or another way of running; stages
        may be longer than before as long as they are not over.
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
        return {path.name for path in vars(self).values() if path.parent == self.path} | {self.certificate.parent.name}

    def recorded_data(self) -> dict[str, Any] | None:
        """Return folder (`prepared`), `fingerprint` and `weights` of the data that the run was begun with, if it was begun."""
        return json.loads(self.data.read_text(encoding="utf-8")) if self.recipe.exists() else None

    def claim(self, recipe: Recipe, ds_config: dict[str, Any], data: dict[str, Any]) -> None:
        """Make the directory this recipe's; the recipe, written last, says that it is."""
        self.checkpoints.mkdir(exist_ok=True)
        self.certificate.parent.mkdir(exist_ok=True)
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
        lengths = _pop_lengths(old), _pop_lengths(new)
        # A run directory may be moved.
        del old["run_dir"], new["run_dir"]
        for key in sorted(_paths(old).items() ^ _paths(new).items(), key=str):
            raise UserError(
                f"{self.recipe}: the run directory belongs to a recipe that differs in {key[0]}; "
                "name another run_dir, or go on with the recipe it was begun with"
            )
        reached = 0
        for number, (before, now) in enumerate(zip(*lengths, strict=True)):
            reached += before
            if now == before:
                continue
            over = saved is not None and (saved.step > reached or (number == 0 and saved.model == "target"))
            if now < before or over:
                raise UserError(
                    f"{self.recipe}: stage {number} (0 is the source's training) had {before} steps and now has {now}; "
                    "a stage may be lengthened while it is not over, and never shortened"
                )

    def _check_ds_config(self, ds_config: dict[str, Any]) -> None:
        old = same_run(json.loads(self.ds_config.read_text(encoding="utf-8")))
        for key, _ in sorted(_paths(old).items() ^ _paths(same_run(ds_config)).items(), key=str):
            raise UserError(
                f"{self.ds_config}: the run was begun with another {key}; go on with the DeepSpeed configuration "
                "that it was begun with, or name another run_dir"
            )


def _pop_lengths(recipe: dict[str, Any]) -> list[int]:
    """Take the stages' lengths out of a recipe: the source's, then each stage's."""
    return [recipe["source"].pop("steps") or 0, *(stage.pop("steps") for stage in recipe["stages"])]


def _paths(value: Any, prefix: str = "") -> dict[str, str]:
    """A nested value as dotted paths to leaves."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix: repr(value)}
    return {path: leaf for key, item in items for path, leaf in _paths(item, f"{prefix}.{key}".lstrip(".")).items()}
