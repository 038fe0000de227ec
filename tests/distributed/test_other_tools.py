"""Checkpoints that other tools wrote, as sources: wherever they lie, exactly what those tools trained, or a sentence."""

import argparse
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.growth.sources import open_source, preview_source
from pipeline.recipe import GrowthConfig, TargetConfig
from tests.distributed.other_tools import LAYOUTS, STEPS, make, small
from tests.ranks import run_ranks

LAST = f"trainer/checkpoint-{STEPS}"
TAG = f"global_step{STEPS}"

PLACES = {
    "output_dir": ("trainer", None),
    "checkpoint-N": (LAST, None),
    "global_stepN": (f"{LAST}/{TAG}", None),
    "accelerate": ("accelerate", LAST),
    "accelerate's tag": ("accelerate/pytorch_model", f"{LAST}/config.json"),
    "plain": ("plain", LAST),
    "plain's tag": (f"plain/{TAG}", f"{LAST}/config.json"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of all of them, and what was trained."""
    root = tmp_path_factory.mktemp("other_tools")
    return root, run_ranks(make, 2, root)[0]


def whole(rows) -> torch.Tensor:
    return rows.rows(0, rows.shape[0])


def same(source, expected, layout) -> None:
    """Hold a source against what DeepSpeed gathered of the training that wrote it."""
    kind, frozen, ds_config = LAYOUTS[layout]
    assert source.state.keys() == {*expected, frozen}
    for name, true in expected.items():
        assert torch.equal(whole(source.state[name]), true["weight"]), name
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(whole(source.optimizer[name][key]), true[key]), (name, key)
        assert source.optimizer[name]["step"] == STEPS
    initial = small(kind).get_parameter(frozen).detach()
    assert torch.equal(whole(source.state[frozen]), initial.bfloat16().float() if "bf16" in ds_config else initial)
    assert frozen not in source.optimizer


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_and_moments_are_those_that_deepspeed_gathers(made, layout, place):
    root, truth = made
    path, config = (found and root / layout / found for found in PLACES[place])
    for opened in (open_source, preview_source):
        same(opened(path, config=config), truth[layout], layout)


def test_what_the_trainer_says_of_its_training_is_shown(made):
    folder = made[0] / "zero1"
    source = open_source(folder / LAST)
    assert source.beside == folder / LAST
    assert source.remarks[0] == "a checkpoint of transformers' Trainer at step 3 of 3, learning rate 0.0005 (logged at step 3)"
    assert re.search(rf"without digests .*{LAST}/config\.json$", source.remarks[1])
    # Whose configuration it is says nothing of whose checkpoint it is.
    assert not any("Trainer" in remark for remark in open_source(folder / "plain", config=folder / LAST).remarks)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_grows_with_its_moments(made, tmp_path, layout):
    root, truth = made
    request = Request(
        source=root / layout / "trainer",
        target=TargetConfig(dropout=None),
        growth=GrowthConfig(optimizer_state="grow"),
        seed=1,
        format="zero3",
        dtype="float32",
        world_size=3,
        out=tmp_path / "grown",
    )
    certificate = OfflineGrowth(request).execute(lambda certificate: {})
    assert any("Trainer at step 3" in remark for remark in certificate["remarks"])
    grown = open_source(tmp_path / "grown")
    for name, true in truth[layout].items():
        assert torch.equal(whole(grown.state[name]), true["weight"]), name
        assert torch.equal(whole(grown.optimizer[name]["exp_avg_sq"]), true["exp_avg_sq"]), name


# --- their variants -------------------------------------------------------------------------------


@pytest.fixture
def copied(made, tmp_path):
    """Copies a layout's Trainer checkpoint, to be spoilt."""

    def copy(layout):
        shutil.copytree(made[0] / layout / LAST, tmp_path / LAST)
        return tmp_path / LAST

    return copy


def rewrite(file, change) -> None:
    saved = torch.load(file, weights_only=False)
    change(saved)
    torch.save(saved, file)


def steps_as_numbers(saved) -> None:
    """As DeepSpeed's FusedAdam and CPUAdam count their steps."""
    saved = saved["optimizer_state_dict"]
    states = saved["optimizer_state_dict"] if saved.get("zero_stage") == 3 else saved["base_optimizer_state"]
    for kept in states["state"].values():
        kept["step"] = int(kept["step"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_may_be_tensors_or_numbers(made, copied, layout):
    place = copied(layout)
    for file in (place / TAG).glob("*optim_states.pt"):
        rewrite(file, steps_as_numbers)
    same(open_source(place), made[1][layout], layout)


def test_what_a_training_script_saves_beside_hinders_nothing(made, copied):
    place = copied("zero2")
    beside = {
        "args": argparse.Namespace(out=Path("runs"), rate=np.float64(1e-3), dtype=torch.bfloat16),
        "rng": {"numpy": np.random.get_state(), "python": random.getstate(), "torch": torch.get_rng_state()},
        "best": np.float32(3.5),
        "epoch": 2,
    }
    rewrite(place / TAG / "mp_rank_00_model_states.pt", lambda saved: saved.update(beside))
    same(open_source(place), made[1]["zero2"], "zero2")


def test_the_newest_checkpoint_is_that_of_the_most_steps(made, copied):
    place = copied("zero1")
    shutil.copytree(made[0] / "zero1" / "trainer" / "checkpoint-2", place.parent / "checkpoint-10")
    (place.parent / "checkpoint-11").touch()
    (place.parent / "checkpoint-best").mkdir()
    assert open_source(place.parent).directory == place.parent / "checkpoint-10" / "global_step2"


def test_a_directory_of_weights_is_no_output_dir_to_look_into(made, tmp_path):
    """What a training ended with, and wrote above its checkpoints."""
    shutil.copytree(made[0] / "zero2" / "trainer", tmp_path / "trainer")
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(made[0] / "zero2" / LAST / name, tmp_path / "trainer" / name)
    source = open_source(tmp_path / "trainer")
    assert source.directory == tmp_path / "trainer" and source.optimizer is None


def test_where_the_deepspeed_folder_was_removed_the_weights_beside_it_are_taken_and_that_is_said(made, copied):
    place = copied("zero2")
    shutil.rmtree(place / TAG)
    source = open_source(place)
    assert source.directory == place and source.optimizer is None
    assert any("with Adam's state, is not there" in remark for remark in source.remarks)
    for name, true in made[1]["zero2"].items():
        assert torch.equal(whole(source.state[name]), true["weight"]), name
    (place / "model.safetensors").unlink()
    with pytest.raises(UserError, match=rf"latest: names '{TAG}', which is not there"):
        open_source(place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a step that is not known: .*trainer_state.json: not readable as JSON"),
        ("[]", "a step that is not known: .*an object of keys is expected"),
        ('{"global_step": 7, "max_steps": 9}', "at step 7 of 9$"),
        ('{"global_step": 7, "max_steps": 9, "log_history": [{"step": 5}, {"learning_rate": "x"}, 3]}', "at step 7 of 9$"),
        (
            '{"global_step": 7, "max_steps": 9, "log_history": [{"step": 5, "learning_rate": 2e-05}, {"eval_loss": 1}]}',
            r"at step 7 of 9, learning rate 2e-05 \(logged at step 5\)$",
        ),
    ],
)
def test_a_trainer_state_of_another_form_hinders_nothing(copied, content, message):
    place = copied("zero2")
    (place / "trainer_state.json").write_text(content)
    assert re.search(message, open_source(place).remarks[0])


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["accelerate", "accelerate/pytorch_model", "plain", f"plain/{TAG}"])
def test_without_a_configuration_the_sentence_says_what_to_add(made, place):
    with pytest.raises(UserError, match=r"no config\.json in it .* source\.config=DIR \(launch/grow\.py: --config DIR\)"):
        open_source(made[0] / "zero1" / place)


def test_a_configuration_of_another_model_is_refused_by_its_tensor(made, tmp_path):
    config = json.loads((made[0] / "zero2" / LAST / "config.json").read_text())
    # As many elements, in other rows and columns.
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 194, "hidden_size": 10, "head_dim": 10}))
    with pytest.raises(UserError, match=rf"embed_tokens\.weight' has shape \(97, 20\) where {tmp_path}/config\.json makes it"):
        open_source(made[0] / "zero2" / "plain", config=tmp_path)
    with pytest.raises(UserError, match=r"zero2/none: no such file; source\.config \(launch/grow\.py: --config\)"):
        open_source(made[0] / "zero2" / "plain", config=tmp_path / "zero2" / "none")


def test_a_configuration_beside_weights_of_its_own_is_refused(made, copied):
    place = copied("zero2")
    shutil.rmtree(place / TAG)
    (place / "latest").unlink()
    with pytest.raises(UserError, match=r"source\.config: .* has its own config\.json; leave it out"):
        open_source(place, config=made[0] / "zero1" / LAST)


def test_one_with_a_configuration_inside_may_be_ours_without_its_digests(made, copied):
    place = copied("zero1")
    shutil.copyfile(place / "config.json", place / TAG / "config.json")
    with pytest.raises(UserError, match=r"has no files\.json, .* source\.foreign=true \(launch/grow\.py: --foreign\)"):
        open_source(place)
    same(open_source(place, untrusted=True), made[1]["zero1"], "zero1")


def elastic(saved) -> None:
    saved["optimizer_state_dict"]["base_optimizer_state"] = []


def stage_0(saved) -> None:
    saved["param_shapes"], saved["optimizer"] = None, {"state": {}, "param_groups": [{"params": [0, 1]}]}


OPTIMIZER, MODEL = "zero_pp_rank_1_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"
REFUSED = {
    "universal": (lambda tag: (tag / "zero").mkdir(), "a universal checkpoint"),
    "tensor parallel": (lambda tag: (tag / "mp_rank_01_model_states.pt").touch(), "tensor-parallel ranks"),
    "tensor parallel, ZeRO": (
        lambda tag: (tag / "bf16_zero_pp_rank_0_mp_rank_01_optim_states.pt").touch(),
        "tensor-parallel ranks",
    ),
    "pipeline": (lambda tag: (tag / "layer_00-model_00-model_states.pt").touch(), "pipeline-parallel ranks"),
    "experts": (lambda tag: (tag / "layer_0_expert_1_mp_rank_00_model_states.pt").touch(), "experts"),
    "experts, ZeRO": (lambda tag: (tag / "expp_rank_0_mp_rank_00_optim_states.pt").touch(), "experts"),
    "elastic": (lambda tag: rewrite(tag / OPTIMIZER, elastic), f"{OPTIMIZER}: of an elastic checkpoint"),
    "without ZeRO": (lambda tag: rewrite(tag / MODEL, stage_0), f"{MODEL}: of ZeRO stage 0"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_layouts_are_refused_by_what_they_are(copied, kind):
    place = copied("zero2")
    spoil, message = REFUSED[kind]
    spoil(place / TAG)
    with pytest.raises(UserError, match=message):
        open_source(place)
