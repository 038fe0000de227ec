"""A kind of stage that the recipe does not have yet: its class, and a name in a list."""

from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import yaml
from pydantic import Field

from pipeline.common.config import PositiveInt, validate
from pipeline.common.errors import UserError
from pipeline.recipe import Recipe, TrainStage
from pipeline.recipe.stages import STAGE_KINDS, Phases, Stage, any_stage
from pipeline.training.directory.recorded_settings import lengths
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.preparation.preparation import preview_run

QUICKSTART = Path(__file__).parents[2] / "launch" / "recipes" / "quickstart.yaml"


class RepeatStage(Stage):
    """The same stage again and again."""

    key: ClassVar[str | None] = "repeat"

    repeat: TrainStage
    times: PositiveInt

    def apply(self, phases: Phases) -> None:
        """Train each time by a stage of its own name."""
        for number in range(1, self.times + 1):
            phases.train(self.repeat.model_copy(update={"name": f"{self.name}-{number}"}))


class Extended(Recipe):
    """A recipe whose stages may be of that kind too."""

    stages: Annotated[list[any_stage((*STAGE_KINDS, RepeatStage))], Field(min_length=1)]


def content(**stage: object) -> dict[str, object]:
    stages = [
        {"name": "cycle", "times": 3, "repeat": {"name": "one", "steps": 5, "sequence_length": 64} | stage},
        {"name": "wider", "grow": {"hidden_size": 320}},
        {"name": "last", "steps": 2},
    ]
    return yaml.safe_load(QUICKSTART.read_text(encoding="utf-8")) | {"stages": stages}


def test_a_stage_of_another_kind_is_planned_as_what_it_stands_for(tmp_path):
    recipe = validate(Extended, content(), "r.yaml")
    names = ["cycle-1", "cycle-2", "cycle-3", "last"]
    assert [stage.name for stage in recipe.train_stages] == names and set(lengths(recipe)) == {"source", *names}
    planned = preview_run(
        recipe, {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 8}, RunDirectory(tmp_path / "run"), 1, 100_000
    )
    found = [(plan.stage.name, plan.phase, plan.end - plan.begin) for plan in planned.training_plan.stages]
    assert found == [("source", 0, 400), ("cycle-1", 1, 5), ("cycle-2", 1, 5), ("cycle-3", 1, 5), ("last", 2, 2)]
    assert validate(Extended, recipe.model_dump(mode="json"), "r.yaml") == recipe


def test_its_keys_are_judged_as_those_of_any_other():
    with pytest.raises(UserError, match=r"r\.yaml: unknown key 'stages\.cycle\.repeat\.stepz'; did you mean 'steps'\?"):
        validate(Extended, content(stepz=3), "r.yaml")
