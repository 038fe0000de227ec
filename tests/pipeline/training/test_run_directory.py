"""Which recipes may go on in a run directory."""

from pathlib import Path

import pytest

from data_prep.errors import UserError
from pipeline.recipe import load_recipe
from pipeline.training.run_directory import RunDirectory

QUICKSTART = Path(__file__).parents[3] / "launch" / "recipes" / "quickstart.yaml"


@pytest.fixture
def begun(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.claim(load_recipe(QUICKSTART, []), {}, {"steps": {}, "weights": {}})
    return directory


@pytest.mark.parametrize(
    "override",
    [
        "guard.rewinds=9",
        "guard.spike=3.0",
        "checkpointing.every=7",
        "checkpointing.asynchronous=true",
        "flops.peak_tflops=3",
        "run_dir=elsewhere",
        "stages.full.steps=100000",
    ],
)
def test_what_changes_no_step_may_change_and_a_stage_become_longer(begun, override):
    begun.check(load_recipe(QUICKSTART, [override]), {}, None)


@pytest.mark.parametrize("override", ["seed=3", "flops.causal_scores=half", "optimizer.lr=0.5", "evaluation.windows=3"])
def test_anything_else_is_refused_by_key(begun, override):
    with pytest.raises(UserError, match=f"differs in {override.split('=')[0]};"):
        begun.check(load_recipe(QUICKSTART, [override]), {}, None)
