"""How a run was started, and what may be otherwise when it goes on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import PretrainedConfig

from pipeline.common.config import validate
from pipeline.common.errors import UserError
from pipeline.common.keyed import DRAWS
from pipeline.families import family_of, sizes_of
from pipeline.growth.state import Source
from pipeline.recipe import SOURCE_STAGE, UNITS, GrownPhase, LengthConfig, ModelPhase, Recipe
from pipeline.recipe.growth import AUTO
from pipeline.runs.records import DataRecord, DsConfigRecord, RunRecord
from pipeline.training.directory.checkpoints import TrainState
from pipeline.training.ds_config import rounds_alike, same_run

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

_ROUNDS = (
    "train_micro_batch_size_per_gpu",
    "attn_implementation",
    "experts_implementation",
    "activation_checkpointing",
    "compile",
    "fused_linear_cross_entropy",
    "make_vocab_size_divisible_by",
)
"""Keys of a recipe by which the same sums are rounded in another order, and nothing else is changed."""


@dataclass(frozen=True, slots=True)
class RecordedSettings:
    """What a run directory, or a checkpoint, says of how its run was started; None where it does not say it."""

    origin: str
    """Where its recipe stands."""
    ds_origin: str
    """Where its DeepSpeed configuration stands."""
    recipe: Recipe | None
    ds_config: DsConfigRecord | None
    data: DataRecord | None
    checkpoint: bool = False

    @classmethod
    def of(cls, record: RunRecord, path: str) -> "RecordedSettings":
        """Read what a checkpoint in `path` says, which is all of it; raises UserError where its recipe is not valid."""
        recipe = validate(Recipe, record["recipe"], path)
        return cls(path, path, recipe, record["ds_config"], record["data"], checkpoint=True)

    @property
    def id(self) -> str | None:
        """The run's id; runs of older versions have none."""
        return None if self.data is None else self.data.get("run")

    def completed(self, other: "RecordedSettings") -> "RecordedSettings":
        """Return the same, with what `other` says where this says nothing."""
        ours = {key: value for key in ("recipe", "ds_config", "data") if (value := getattr(self, key)) is not None}
        return replace(other, **ours)

    def check(self, recipe: Recipe, ds_config: Mapping[str, Any], saved: TrainState | None) -> None:
        """Raise UserError where a recipe and a configuration are not of this run.

        Stages may be longer as long as they are not over, and what changes no step of the run may differ.
        """
        if self.recipe is not None:
            self._check_lengths(self.recipe, recipe, saved)
            named = _sizes_made(recipe, saved)
            for key, (before, now) in differing(_without_lengths(self.recipe), _without_lengths(recipe)).items():
                # A size that was derived may be named since: a later version may derive another.
                if not _is_of(key, _MAY_CHANGE + _ROUNDS) and (before, now) != ("None", named.get(key)):
                    whose = "the checkpoint" if self.checkpoint else "the run directory"
                    raise UserError(
                        f"{self.origin}: {whose} belongs to a recipe that differs in {key}; {self._instead('the recipe')}"
                    )
        if self.ds_config is not None:
            for key in differing(same_run(self.ds_config), same_run(ds_config)):
                raise UserError(
                    f"{self.ds_origin}: the run was started with another {key}; {self._instead('the DeepSpeed configuration')}"
                )

    def _instead(self, what: str) -> str:
        if self.checkpoint:
            return f"go on with {what} of its run, or start from it in another run_dir, by source.path={self.origin}"
        return f"name another run_dir, or go on with {what} it was started with"

    def _check_lengths(self, started_with: Recipe, recipe: Recipe, saved: TrainState | None) -> None:
        """Raise UserError where a stage has become shorter, is counted otherwise, or is longer though it is over.

        Likewise where one that was trained is not trained any more, or the other way round.
        """
        before, now, reached = lengths(started_with), lengths(recipe), 0
        for name in before.keys() & now.keys():
            if (before[name] is None) != (now[name] is None):
                was, is_now = (
                    "not trained" if length is None else f"trained for {_counted(length)}"
                    for length in (before[name], now[name])
                )
                raise UserError(
                    f"{self.origin}: {name!r} was {was} when the run was started, and now is {is_now}; "
                    f"{self._instead('the recipe')}"
                )
        steps = {} if self.data is None else self.data["steps"]
        for phase in recipe.phases:
            for stage in phase.stages:
                reached += steps.get(stage.name, 0)
                old, new = before.get(stage.name), stage.length
                if old is None or old == new:
                    continue
                over = saved is not None and (saved.step > reached or saved.phase > phase.number)
                if old[0] != new[0] or new[1] < old[1] or over:
                    # A longer whole, as of a run from small to large, lengthens all its stages.
                    longer = over and old[0] == new[0] and new[1] > old[1]
                    last = "; lengthen the last stage, in the run directory's recipe.yaml, and start that recipe" * longer
                    raise UserError(
                        f"{self.origin}: the stage {stage.name!r} had {_counted(old)} and now has {_counted(new)}; a stage can "
                        f"be made longer if no later one has started, and never shorter{last}"
                    )

    def rounding(self, recipe: Recipe, ds_config: Mapping[str, Any]) -> list[str]:
        """Return a sentence on what is not as it was and changes in which order, or how, sums are rounded."""
        found: dict[str, tuple[str, str]] = {}
        if self.recipe is not None:
            otherwise = differing(_without_lengths(self.recipe), _without_lengths(recipe))
            # What a micro-batch really is the DeepSpeed configuration says, as it was resolved.
            found |= {key: values for key, values in otherwise.items() if _is_of(key, _ROUNDS[1:])}
        if self.ds_config is not None:
            found |= differing(rounds_alike(self.ds_config), rounds_alike(ds_config))
        if not found:
            return []
        changes = ", ".join(f"{key} {now} (it was {before})" for key, (before, now) in found.items())
        return [
            f"the run continues with {changes}: its steps are the same, but sums are rounded in another order, so that losses "
            "agree with those of the run as it was to rounding, not to the bit (dropout, where there is any, draws other masks)"
        ]

    def drawing(self, recipe: Recipe, saved: TrainState | None) -> list[str]:
        """Return a sentence where growths that are still to come draw other random values than when the run was started."""
        # Without a checkpoint everything is drawn again.
        ahead = [phase.name for phase in recipe.phases if saved is not None and phase.number > saved.phase]
        if not ahead or self.data is None or self.data.get("draws") == DRAWS:
            return []
        return [
            "the run was started by a version that draws other random values from the same seed "
            f"({self.data.get('draws', 'an older one')}; now {DRAWS}): growth that is still to come ({', '.join(ahead)}) is "
            "what another seed would make, and not what that version would have made"
        ]


def recorded_lengths(recipe: Recipe) -> dict[str, list[str | float] | None]:
    """Return `lengths` as summary.json has them."""
    return {name: None if length is None else list(length) for name, length in lengths(recipe).items()}


def lengths(recipe: Recipe) -> dict[str, tuple[str, float] | None]:
    """Return how long the source and each train stage are: unit and number."""
    named: dict[str, LengthConfig] = {SOURCE_STAGE: recipe.source} | {stage.name: stage for stage in recipe.train_stages}
    return {name: stage.length for name, stage in named.items()}


def check_model(opened: Source, config: PretrainedConfig, phase: ModelPhase) -> None:
    """Raise UserError where a checkpoint's model is not of the sizes and the class that its phase of the run trains."""
    before, now = (asdict(sizes_of(one)) | {"class": family_of(one).model_class.__name__} for one in (opened.config, config))
    otherwise = [key for key in before if before[key] != now[key]]
    if not otherwise:
        return
    changes = ", ".join(f"{key} {before[key]} where recipe and source now give {now[key]}" for key in otherwise)
    named = ""
    if isinstance(phase, GrownPhase) and all(getattr(phase.target, key, 0) is None for key in otherwise):
        where = "target" if phase.number == 1 else f"stages.{phase.name}.grow"
        named = (
            "name in the recipe what it left open (" + ", ".join(f"{where}.{key}={before[key]}" for key in otherwise) + "), "
        )
    raise UserError(
        f"{opened.directory}: its model has {changes}; {named}put source and recipe back as they were, or start from the "
        f"checkpoint in another run_dir, by source.path={opened.directory}"
    )


def differing_whole(one: Recipe, other: Recipe) -> list[str]:
    """Return the keys in which two recipes take every step otherwise: neither growths nor stages nor the schedule's course."""
    found = differing(_without_courses(one), _without_courses(other))
    return [key for key in found if not _is_of(key, _MAY_CHANGE + _ROUNDS)]


def _without_courses(recipe: Recipe) -> dict[str, Any]:
    content = recipe.model_dump(mode="json")
    for key in ("stages", "schedule", "target", "growth"):
        del content[key]
    for key in (*UNITS, "lr"):
        # The source's training is a stage.
        del content["source"][key]
    return content


def _sizes_made(recipe: Recipe, saved: TrainState | None) -> dict[str, str]:
    """The sizes of the models that a run has grown by a checkpoint, by the keys that name them in its recipe."""
    if saved is None or saved.run is None:
        return {}
    numbers = {stage.name: number for number, stage in enumerate(recipe.stages)}
    places = ["target", *(f"stages.{numbers.get(phase.name)}.grow" for phase in recipe.grown_phases[1:])]
    made = saved.run["certificates"][: saved.phase]
    return {
        f"{place}.{key}": repr(size)
        for place, certificate in zip(places, made, strict=False)
        for key, size in certificate["target"].items()
    }


def _counted(length: tuple[str, float]) -> str:
    unit, number = length
    return f"{number:g} {unit.removesuffix('s') if number == 1 and unit != 'flops' else unit}"


def _is_of(key: str, sections: tuple[str, ...]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def _without_lengths(recipe: Recipe) -> dict[str, Any]:
    content = recipe.model_dump(mode="json")
    for stage in (content["source"], *content["stages"]):
        for unit in UNITS:
            stage.pop(unit, None)
    for growth in [content["growth"], *(stage["growth"] for stage in content["stages"] if stage.get("growth"))]:
        # Earlier versions wrote what `auto` comes to where the tokenizer stays.
        if growth["vocabulary"] == AUTO and recipe.target.tokenizer is None:
            growth["vocabulary"] = "mean"
    return content


def differing(old: Any, new: Any) -> dict[str, tuple[str, str]]:
    """The dotted paths at which two nested values differ, with the leaf of each; "nothing" where there is none."""
    before, now = _leaves(old), _leaves(new)
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return {key: (before.get(key, "nothing"), now.get(key, "nothing")) for key in keys}


def _leaves(value: Any, prefix: str = "") -> dict[str, str]:
    """A nested value as dotted paths to leaves."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix: repr(value)}
    return {path: leaf for key, item in items for path, leaf in _leaves(item, f"{prefix}.{key}".lstrip(".")).items()}
