"""A run from small to large, written in a few lines: it goes through its stages, killed or not."""

import json
from pathlib import Path

import pytest
import yaml

MODEL = {"family": "gpt2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}


@pytest.fixture
def progressive(recipe) -> Path:
    """Six steps of a single layer, and four of four layers."""
    path = recipe(checkpointing={"every": 2})
    content = yaml.safe_load(path.read_text())
    for key in ("source", "target", "growth", "stages", "schedule"):
        del content[key]
    section = {"model": MODEL, "steps": 10, "sizes": [{"num_hidden_layers": 1}], "shares": [0.6]}
    path.write_text(yaml.safe_dump(content | {"progressive": section}))
    return path


def test_killed_behind_the_growth_it_ends_with_the_losses_of_a_run_that_was_not(launch, progressive, tmp_path):
    alone = launch(progressive, f"run_dir={tmp_path / 'alone'}").finish()
    assert [record["stage"] for record in alone.metrics] == ["size-1"] * 6 + ["target"] * 4
    # wsd over the run: one step of warmup, the full rate through the growth, and the last fifth for the fall.
    assert [record["lr"] for record in alone.metrics] == pytest.approx([0.003] * 9 + [0.0015])
    grown = json.loads((alone.run_dir / "certificates" / "01.json").read_text())
    assert (grown["source"]["num_hidden_layers"], grown["target"]["num_hidden_layers"]) == (1, 4)
    assert grown["growth"]["optimizer_state"] == "grow"

    interrupted = launch(progressive)
    # Of the four layers one step is done, and no checkpoint: they are grown again.
    interrupted.wait_for_step(7)
    interrupted.kill()
    resumed = launch(progressive).finish()
    assert "continues from its checkpoint of step 6" in resumed.output
    assert resumed.losses == alone.losses
    assert resumed.evaluations == alone.evaluations

    launch(progressive, "progressive.steps=20").refused("lengthen the last stage, in the run directory's recipe.yaml")
    written = interrupted.run_dir / "recipe.yaml"
    content = yaml.safe_load(written.read_text())
    content["stages"][-1]["steps"] += 2
    written.write_text(yaml.safe_dump(content))
    assert launch(written).finish().summary["steps"] == 12
