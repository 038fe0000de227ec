"""Whole runs on a GPU: precisions and ZeRO stages, families, resuming, compiled layers, offloading.

REHEARSE_GPU=1 runs them on a CPU, fp16 left out, which DeepSpeed does not train there.
"""

import copy
import json
import math
import os
import shutil

import pytest
import torch

from tests.end_to_end.conftest import run_dir_of

pytestmark = pytest.mark.skipif(not (torch.cuda.is_available() or os.environ.get("REHEARSE_GPU")), reason="no GPU here")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISIONS = {"bf16": {"bf16": {"enabled": True}}, "fp16": {"fp16": {"enabled": True, "initial_scale_power": 8}}, "fp32": {}}
# Relative, for losses of seven steps: on a GPU attention's backward pass adds in an order of its own each time, which moves the
# last digits of the gradients, in bfloat16 those of eight bits. On a CPU they are equal.
TOLERANCE = {"bf16": 2e-3, "fp16": 5e-4, "fp32": 1e-5}


@pytest.fixture
def run(launch, tmp_path):
    """Run launch/pretrain.py to its end: `run(recipe_file, precision, zero_optimization, *overrides, ranks=0, sharing=1)`.

    By DeepSpeed's launcher on so many ranks, or, of 0, as no launcher would; so many of them share each sequence.
    """

    def run(path, precision, zero, *overrides, ranks=0, sharing=1):
        ds_config = copy.deepcopy(PRECISIONS[precision]) | {"zero_optimization": zero, "sequence_parallel_size": sharing}
        if precision == "fp16":
            ds_config["fp16"] |= {"loss_scale_window": 4}
        (tmp_path / "ds.json").write_text(json.dumps(ds_config))
        script = ["launch/pretrain.py", "--ds_config", str(tmp_path / "ds.json"), "--recipe", str(path), *overrides]
        run_dir = run_dir_of(path, overrides)
        if ranks:
            count = "--num_gpus" if DEVICE != "cpu" else "--num_accelerators"
            started = launch.command(["deepspeed", count, str(ranks), *script], run_dir, accelerator=DEVICE)
        elif DEVICE != "cpu":
            started = launch.command(["python", *script], run_dir, accelerator=DEVICE)
        else:
            started = launch.script(script, run_dir)
        return started.finish()

    return run


def check(finished, *, exact=True):
    """A run that grew as predicted, learnt, and used the device."""
    (growth,) = finished.summary["growths"]
    assert growth["measured_agrees"] and (growth["verdict"] == "exact" or not exact)
    assert all(math.isfinite(loss) for loss in finished.losses)
    assert finished.summary["losses"]["final"] < finished.summary["losses"]["source"]
    assert DEVICE == "cpu" or finished.summary["peak_memory"][0]["device_gib"] > 0


def able(precision):
    if precision == "fp16" and DEVICE == "cpu":
        pytest.skip("fp16 is trained on a GPU alone")


WIDER = {"target": {"hidden_size": 64, "num_hidden_layers": 4}, "growth": {"width": "fpi", "depth": "last_layer"}}


# What compiles first: it takes longest, and others run beside it.
@pytest.mark.parametrize("stage", [1, 3])
def test_compiled_layers_train_on_a_gpu(run, recipe, stage):
    # One way of running the layers, each of which is compiled for itself, of the source and of the target.
    check(run(recipe(**WIDER, stages=[{"name": "full", "steps": 8}]), "bf16", {"stage": stage}, "compile=true"))


OFFLOADED = {
    "optimizer, ZeRO 2": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "optimizer, ZeRO 3": {"stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": True}},
    "parameters": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
}


@pytest.mark.parametrize("zero", OFFLOADED.values(), ids=OFFLOADED)
def test_what_is_offloaded_to_the_host_trains_on_a_gpu(run, recipe, zero):
    check(run(recipe(**WIDER), "bf16", zero))


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_growth_and_both_stages_run_on_a_gpu(run, recipe, precision, stage):
    able(precision)
    check(run(recipe(**WIDER), precision, {"stage": stage}, ranks=int(stage == 3)))


@pytest.mark.skipif(DEVICE != "cpu" and torch.cuda.device_count() < 2, reason="one GPU alone")
@pytest.mark.parametrize("stage", [1, 3])
def test_two_gpus_train_one_model(run, recipe, stage):
    finished = run(recipe(**WIDER), "bf16", {"stage": stage}, ranks=2)
    check(finished)
    assert len(finished.summary["peak_memory"]) == 2


@pytest.mark.skipif(DEVICE != "cpu" and torch.cuda.device_count() < 2, reason="one GPU alone")
@pytest.mark.parametrize(("family", "stage", "precision"), [("gpt2", 1, "bf16"), ("llama", 3, "bf16"), ("bert", 3, "fp32")])
def test_two_gpus_that_share_sequences_have_the_losses_of_two_that_do_not(run, recipe, tmp_path, family, stage, precision):
    path = recipe(family, target={"hidden_size": 64, "num_hidden_layers": 4}, growth={"width": "auto", "depth": "auto"})
    apart = run(path, precision, {"stage": stage}, f"run_dir={tmp_path / 'run' / 'apart'}", ranks=2)
    assert len(apart.losses) == 22
    shared = run(path, precision, {"stage": stage}, f"run_dir={tmp_path / 'run' / 'shared'}", ranks=2, sharing=2)
    # Three times as many steps as of a resumed run, in whose losses rounding may differ.
    assert shared.losses == pytest.approx(apart.losses, rel=3 * TOLERANCE[precision])


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize(
    "override",
    ["fused_linear_cross_entropy=true", "make_vocab_size_divisible_by=64"],
    ids=["the loss with its matrix", "padded"],
)
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_an_output_matrix_that_is_padded_or_runs_with_the_loss_trains_on_a_gpu(run, recipe, family, override, stage):
    path = recipe(family, target={"hidden_size": 64, "num_hidden_layers": 4}, growth={"width": "auto", "depth": "auto"})
    check(run(path, "bf16", {"stage": stage}, override), exact=False)


@pytest.mark.parametrize(("family", "stage"), [("bert", 1), ("bert", 3), ("llama", 3), ("qwen3", 1)])
def test_families_grow_and_train_on_a_gpu(run, recipe, family, stage):
    path = recipe(family, target={"hidden_size": 64, "num_hidden_layers": 4}, growth={"width": "auto", "depth": "auto"})
    check(run(path, "bf16", {"stage": stage}), exact=False)


@pytest.mark.parametrize(
    ("precision", "stage", "asynchronous"), [("bf16", 1, True), ("bf16", 3, False), ("fp16", 2, True), ("fp32", 3, True)]
)
def test_a_run_that_is_resumed_on_a_gpu_has_the_uninterrupted_ones_losses(
    run, recipe, tmp_path, precision, stage, asynchronous
):
    able(precision)
    path = recipe(**WIDER, checkpointing={"every": 5, "keep": 3, "asynchronous": asynchronous})
    undisturbed = run(path, precision, {"stage": stage})
    losses, checkpoints = undisturbed.losses, tmp_path / "run" / "checkpoints"
    assert sorted(each.name for each in checkpoints.iterdir()) == ["latest", *(f"step-000000{step}" for step in (15, 20, 22))]
    ended = json.loads((checkpoints / "step-00000022" / "progress.json").read_text())
    # As if the machine had died before the next checkpoint.
    for step in (20, 22):
        shutil.rmtree(checkpoints / f"step-000000{step}")
    (checkpoints / "latest").write_text("step-00000015")
    (tmp_path / "run" / "summary.json").unlink()
    resumed = run(path, precision, {"stage": stage})
    assert "continues from its checkpoint of step 15" in resumed.output and len(resumed.losses) == len(losses) == 22
    assert resumed.losses[:15] == losses[:15]
    assert resumed.losses[15:] == pytest.approx(losses[15:], rel=TOLERANCE[precision])
    again = json.loads((checkpoints / "step-00000022" / "progress.json").read_text())
    assert again["loss_scale"] == ended["loss_scale"]
    if precision == "fp16":
        assert again["loss_scale"]["cur_scale"] > 2**8, "it grows every 4 steps"


STEPS = """
import sys
from contextlib import nullcontext

import torch

from pipeline.training import distributed
from tests.distributed.steps import take_step, trainer
from tests.waits import unwaiting

distributed.join()
for family in ("gpt2", "bert"):
    with trainer(family, int(sys.argv[1])) as made:
        for _ in range(3):
            take_step(made)
            made.steps.judge()
        # A second one behind it, as in a run.
        with unwaiting(streams=sys.argv[1] == "3") if torch.cuda.is_available() else nullcontext():
            take_step(made)
            take_step(made)
        made.steps.judge()
"""


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_steps_are_launched_without_waiting_for_the_gpu(launch, tmp_path, stage):
    """What makes the host wait raises; on a CPU it is counted in tests/distributed/test_steps.py."""
    launch.command(["python", "-c", STEPS, str(stage)], tmp_path, accelerator=DEVICE).finish()
