"""Which steps two runs have in common."""

from pathlib import Path

import pytest

from pipeline.recipe import load_recipe
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.preparation.preparation import Planned, preview_run
from pipeline.training.run.branching import common_steps
from tests.end_to_end.conftest import ROOT

WSD = "schedule={name: wsd, warmup_steps: 10, decay_ratio: 0.2, final_ratio: 0.07, span: run}"


def stages(six: str = "steps: 70", grow: str = "num_hidden_layers: 12", growth: str = "", twelve: str = "steps: 280") -> str:
    return f"stages=[{{name: six, {six}}}, {{name: to-12, grow: {{{grow}}}{growth}}}, {{name: twelve, {twelve}}}]"


def course(*overrides: str) -> Planned:
    """StackBERT's: 3 layers for 50 steps, 6 for 70, 12 for 280, with a WSD schedule over all of them."""
    own = ["run_dir=no/where", WSD, stages(), *overrides]
    recipe = load_recipe(ROOT / "launch" / "recipes" / "stackbert.yaml", own)
    batch = {"train_batch_size": recipe.train_batch_size, "train_micro_batch_size_per_gpu": 8}
    return preview_run(recipe, batch, RunDirectory(Path(recipe.run_dir)), 1, 10**6)


@pytest.fixture(scope="module")
def whole() -> Planned:
    return course()


@pytest.mark.parametrize(
    ("changed", "steps", "key"),
    [
        ("evaluation.tasks=[]", 400, "stages"),
        ("train_batch_size=8", 0, "train_batch_size"),
        ("optimizer.lr=0.5", 0, "optimizer.lr"),
        ("seed=9", 0, "seed"),
        ("source.lr=0.5", 0, "stages.source.lr"),
        ("source.steps=30", 30, "stages.source.steps"),
        ("target.num_hidden_layers=9", 50, "target.num_hidden_layers"),
        (stages(six="steps: 60"), 110, "stages.six.steps"),
        (stages(six="steps: 70, lr: 0.5"), 50, "stages.six.lr"),
        (stages(six="steps: 70, warmup_steps: 2"), 50, "schedule"),
        (stages(grow="num_hidden_layers: 9"), 120, "stages.to-12.grow.num_hidden_layers"),
        (stages(growth=", growth: {depth: last_layer}"), 120, "stages.to-12.growth.depth"),
        # The fall of 400 steps is the last 80, whose first is taken at the peak; that of 360 the last 72.
        (stages(twelve="steps: 240"), 289, "schedule"),
        (stages(twelve="steps: 680"), 321, "schedule"),
        ("schedule={name: constant, warmup_steps: 10, span: run}", 321, "schedule"),
        ("schedule={name: constant, warmup_steps: 9, span: run}", 0, "schedule"),
    ],
)
def test_runs_have_the_steps_in_common_before_the_first_that_differs(whole, changed, steps, key):
    other = course(changed)
    found = [common_steps(*pair) for pair in ((whole, other), (other, whole))]
    assert [number for number, _ in found] == [steps, steps]
    assert found[0][1] == key
