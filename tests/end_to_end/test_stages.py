"""Whole runs of stages of every kind: they do what they say, on any number of ranks, however often interrupted."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.growth.sources import open_source
from tests.end_to_end.conftest import write_recipe

PROGRESSIVE = [
    {"name": "six", "steps": 4, "trainable": ["layers.2-3", "head"]},
    {"name": "grow", "grow": {"num_hidden_layers": 6}},
    {"name": "top", "steps": 4, "trainable": ["layers.4-5", "head"], "warmup_steps": 2},
    {"name": "full", "steps": 4},
]


def whole(tensor) -> torch.Tensor:
    """All rows of a tensor of a state."""
    return tensor.rows(0, tensor.shape[0])


def progressive(recipe) -> Path:
    """A BERT of 2 layers, grown to 4 and to 6, Adam's state with it."""
    return recipe(
        family="bert",
        target={"num_hidden_layers": 4},
        growth={"width": "fpi", "depth": "stack", "optimizer_state": "grow"},
        stages=PROGRESSIVE,
        schedule={"name": "linear", "warmup_steps": 2, "span": "run"},
        checkpointing={"every": 2, "keep": 9},
    )


@pytest.fixture(scope="module")
def grown_twice(launch, prepared, tmp_path_factory):
    """An undisturbed progressive run on one rank."""
    return launch(progressive(partial(write_recipe, tmp_path_factory.mktemp("progressive"), prepared))).finish()


def test_a_run_grows_as_often_as_it_says(grown_twice):
    certificates = [json.loads(path.read_text()) for path in sorted((grown_twice.run_dir / "certificates").iterdir())]
    depths = [(c["source"]["num_hidden_layers"], c["target"]["num_hidden_layers"]) for c in certificates]
    assert depths == [(2, 4), (4, 6)]
    assert grown_twice.summary["growths"] == certificates
    assert [record["stage"] for record in grown_twice.metrics] == ["source"] * 8 + ["six"] * 4 + ["top"] * 4 + ["full"] * 4
    assert [record["stage"] for record in grown_twice.evaluations] == ["source", "grown", "six", "grow", "top", "full"]
    rates = [record["lr"] for record in grown_twice.metrics]
    # One schedule from the first step to the last, climbed to anew over 2 steps behind the second growth.
    assert rates[8:12] == pytest.approx([0.003 * (1 - (step - 2) / 18) for step in range(8, 12)])
    assert rates[12] == pytest.approx(0.003 * (1 - 10 / 18) / 2)


def test_a_run_that_branches_off_another_takes_the_same_steps_as_if_it_had_taken_all_of_them(
    launch, recipe, grown_twice, tmp_path
):
    """From step 10, before the second growth, on: with the same losses, records and ledger."""
    other = tmp_path / "other"
    shutil.copytree(grown_twice.run_dir, other)
    for later in (other / "checkpoints").glob("step-*"):
        if later.name > "step-00000010":
            shutil.rmtree(later)
    (other / "checkpoints" / "latest").write_text("step-00000010\n")
    branch = launch(progressive(recipe), "--branch_from", str(other)).finish()
    assert f"{other}: its first 10 steps are those of this run" in branch.output
    assert "continues from its checkpoint of step 10" in branch.output
    assert branch.losses == grown_twice.losses
    assert branch.evaluations == grown_twice.evaluations
    for key in ("flops", "steps", "tokens", "lengths"):
        assert branch.summary[key] == grown_twice.summary[key], key
    ids = [json.loads((run / "data.json").read_text())["run"] for run in (tmp_path / "run", grown_twice.run_dir)]
    assert ids[0] != ids[1]


def test_a_run_does_not_branch_off_one_whose_checkpoints_are_all_beyond_their_common_steps(
    launch, recipe, grown_twice, tmp_path
):
    content = yaml.safe_load(progressive(recipe).read_text())
    content["source"]["lr"] = 0.001
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    branch = launch(tmp_path / "recipe.yaml", "--branch_from", str(grown_twice.run_dir))
    branch.refused("within the 0 steps that it has in common with this run (then they differ in stages.source.lr")
    assert not (tmp_path / "run").exists()


def test_a_source_without_a_length_is_trained_from_scratch_by_the_stages(launch, recipe, undisturbed):
    """To the bit as a source of so many steps is."""
    model = {"family": "gpt2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    scratch = launch(recipe(source={"model": model}, target={}, stages=[{"name": "full", "steps": 8}])).finish()
    assert scratch.losses == undisturbed.losses[:8]
    certificate = json.loads((scratch.run_dir / "certificates" / "00.json").read_text())
    assert (certificate["verdict"], certificate["source_path"]) == ("exact", "random initialization")
    assert list(scratch.summary["flops"]["stages"]) == ["full"]
    assert not (scratch.run_dir / "source_model").exists()


def test_what_a_stage_does_not_train_stands_still(grown_twice):
    """Between two checkpoints within `top`."""
    before, after = (open_source(grown_twice.run_dir / "checkpoints" / f"step-000000{step}") for step in (14, 16))
    moved = {name for name in before.state if not torch.equal(whole(before.state[name]), whole(after.state[name]))}
    learns = re.compile(r"encoder\.layer\.[45]\.|^cls\.|word_embeddings")
    assert moved == {name for name in before.state if learns.search(name)}


def test_two_ranks_give_the_losses_of_one_through_two_growths(grown_twice, launch, recipe):
    together = launch(progressive(recipe), ranks=2).finish()
    # 20 steps in fp32; the sums over the batch are taken in another order.
    assert together.losses == pytest.approx(grown_twice.losses, rel=1e-5)


@pytest.mark.parametrize("step", [11, 17])
def test_killed_between_and_behind_growths_the_losses_are_the_undisturbed_runs(grown_twice, launch, recipe, step):
    path = progressive(recipe)
    interrupted = launch(path)
    interrupted.wait_for_step(step)
    interrupted.kill()
    resumed = launch(path).finish()
    assert resumed.losses == grown_twice.losses
    assert resumed.summary["losses"] == grown_twice.summary["losses"]
    assert resumed.evaluations == grown_twice.evaluations


def test_stages_have_batches_lengths_and_blends_of_their_own(launch, recipe):
    stages = [
        {"name": "short", "tokens": 1024, "sequence_length": 16, "train_batch_size": 16},
        {"name": "large", "steps": 2, "train_batch_size": 16, "schedule": {"name": "constant"}, "lr": 0.001},
        {"name": "flops", "flops": 1.0e8},
    ]
    # Of which the tokenizer has fewer.
    ids = "source.model.vocab_size=448"
    finished = launch(recipe(stages=stages), ids, ranks=2, ds_config={"zero_optimization": {"stage": 2}}).finish()
    by_stage = {name: [r for r in finished.metrics if r["stage"] == name] for name in ("short", "large", "flops")}
    assert len(by_stage["short"]) == 4
    tokens = [record["tokens"] for record in finished.metrics]
    assert tokens[7:13] == [2048, 2304, 2560, 2816, 3072, 3584]
    assert [record["lr"] for record in by_stage["large"]] == [0.001] * 2
    spent = [record["flops_model"] for record in by_stage["flops"]]
    assert sum(spent[:-1]) < 1e8 <= sum(spent)
    # Another accumulation within a run, on one rank: the same losses.
    alone = launch(recipe(stages=stages, run_dir=str(finished.run_dir) + "-alone"), ids).finish()
    assert finished.losses == pytest.approx(alone.losses, rel=1e-5)


def test_groups_have_rates_and_decays_of_their_own(launch, recipe):
    """A rate of next to nothing leaves the first layers all but where growth put them."""
    stages = [{"name": "s", "steps": 3, "groups": [{"parameters": ["embeddings", "layers.0-1"], "lr": 1e-12}]}]
    finished = launch(recipe(stages=stages, checkpointing={"every": 1, "keep": 3})).finish()
    first = open_source(finished.run_dir / "checkpoints" / "step-00000009").state
    last = open_source(finished.run_dir / "checkpoints" / "step-00000011").state

    def moved(part: str) -> float:
        return max((whole(first[name]) - whole(last[name])).abs().max() for name in first if part in name)

    # Weights of the order of 1e-1 in fp32 do not feel steps of 1e-12.
    assert moved(".h.0.") < 1e-8 and moved("wpe") < 1e-8
    assert moved(".h.2.") > 1e-4 and moved("wte") > 1e-4
