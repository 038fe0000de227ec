"""Whole runs: what they leave, that they do not depend on the ranks, and that they go on where they stopped."""

import json
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from data_prep.manifest import HELDOUT, PreparedData
from data_prep.shards import bin_path
from pipeline.flops.ledger import Ledger
from tests.end_to_end.conftest import FP32, ROOT, Finished, latest, wait_for, write_recipe

SOURCE, SUBMODELS, FULL = 8, 6, 8
STEPS = SOURCE + SUBMODELS + FULL
SHORT = {"model": {"family": "gpt2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}, "steps": 2}
"""A source that is hardly trained, where that is not the point."""


def test_a_run_leaves_what_the_contract_says(undisturbed):
    run = undisturbed.run_dir
    for name in ("recipe.yaml", "ds_config.json", "summary.json", "certificates/00.json", "checkpoints/latest"):
        assert (run / name).is_file(), name
    metrics = undisturbed.metrics
    assert [record["step"] for record in metrics] == list(range(1, STEPS + 1))
    stages = [record["stage"] for record in metrics]
    assert stages == ["source"] * SOURCE + ["submodels"] * SUBMODELS + ["full"] * FULL
    depths = [record["submodel_layers"] for record in metrics]
    assert set(depths[SOURCE : SOURCE + SUBMODELS]) == {2, 4} and set(depths[SOURCE + SUBMODELS :]) == {None}
    assert metrics[-1]["tokens"] == STEPS * 8 * 32
    assert metrics[-1]["flops_total"] == sum(record["flops_executed"] for record in metrics)
    assert all(record["grad_norm"] > 0 and record["seconds"] > 0 for record in metrics)
    assert not list(run.rglob("*.partial"))

    summary = undisturbed.summary
    ledger = Ledger.from_json(summary["flops"])
    assert ledger.stages.keys() == {"source", "submodels", "full"}
    assert ledger.total == metrics[-1]["flops_total"]
    assert summary["losses"]["final"] < summary["losses"]["grown"]
    assert "the source's own pre-training" in undisturbed.output
    certificate = json.loads((run / "certificates" / "00.json").read_text())
    assert certificate["maps"]["residual"] == {"source": 32, "target": 48, "copies": [1, 2], "balanced": False}
    assert certificate["verdict"] == "inexact by design"


def test_a_finished_run_prints_its_summary_again_and_touches_nothing(undisturbed, launch):
    def times():
        return {p: p.stat().st_mtime_ns for p in undisturbed.run_dir.rglob("*") if p.is_file() and p.name != ".lock"}

    before = times()
    again = launch(undisturbed.run_dir.parent / "recipe.yaml").finish()
    assert "after training" in again.output
    assert times() == before


def test_the_model_that_comes_out_is_the_one_that_was_measured(undisturbed):
    """Hugging Face loads the exported directory and finds the recorded held-out loss in a loop of its own."""
    model = AutoModelForCausalLM.from_pretrained(undisturbed.run_dir / "model")
    loss = _heldout_loss(model, undisturbed)
    assert loss == pytest.approx(undisturbed.summary["losses"]["final"], rel=1e-5)
    assert [record["stage"] for record in undisturbed.evaluations] == ["source", "grown", "submodels", "full"]


def _heldout_loss(model, finished) -> float:
    """Loss over the nine held-out windows, by a loop of the test's own."""
    data = PreparedData(Path(finished.summary["paths"]["data"]))
    shard = bin_path(data.shards(data.corpora[0], HELDOUT)[0])
    tokens = torch.from_numpy(np.fromfile(shard, dtype=np.uint16)[: 9 * 32 + 1].astype(np.int64))
    windows = torch.stack([tokens[32 * i : 32 * i + 33] for i in range(9)])
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()


def test_a_run_directory_is_a_source_with_its_own_tokenizer(undisturbed, launch, recipe, tmp_path, corpus):
    """Its newest checkpoint, grown to its own size: the same model, and on the same text."""
    data = {
        "output_dir": str(tmp_path / "data"),
        "text": {"files": [str(corpus)], "heldout_fraction": 0.1},
        "sequence_length": 32,
    }
    stages = [{"name": "full", "steps": 2}]
    path = recipe(data=data, source={"path": str(undisturbed.run_dir)}, target={}, stages=stages)
    finished = launch(path).finish()
    certificate = json.loads((finished.run_dir / "certificates" / "00.json").read_text())
    assert certificate["verdict"] == "exact"
    assert certificate["measured"]["max_logit_difference"] == 0
    # The engine's own fp32 sums beside those of a source that is read in pieces.
    assert certificate["in_training"]["max_logit_difference"] < 1e-5
    assert finished.summary["losses"]["source"] == pytest.approx(undisturbed.summary["losses"]["final"], rel=1e-6)
    (prepared,) = (tmp_path / "data").glob("*/tokenizer/tokenizer.model")
    own = json.loads((undisturbed.run_dir / "data.json").read_text())["prepared"]
    assert prepared.read_bytes() == (Path(own) / "tokenizer" / "tokenizer.model").read_bytes()
    assert (finished.run_dir / "model" / "tokenizer.model").is_file()


def test_a_vocabulary_that_grows_leaves_the_measured_loss_and_logits(launch, recipe):
    """New tokens get the mean of the old rows, which would count in the softmax."""
    target = {"hidden_size": 64, "vocab_size": 512}
    growth = {"width": "fpi", "depth": "last_layer", "vocabulary": "mean"}
    path = recipe(target=target, growth=growth, source=SHORT, stages=[{"name": "full", "steps": 2}])
    finished = launch(path, ranks=2).finish()
    certificate = finished.summary["growths"][0]
    assert certificate["verdict"] == "exact" and certificate["measured_agrees"]
    seen = certificate["in_training"]
    # fp32 in another order; with 106 more tokens in the softmax the loss would be 0.2 higher.
    assert abs(seen["loss_gap"]) < 1e-5 and seen["max_logit_difference"] < 1e-5
    assert seen["scored_tokens"] == 9 * 32
    exported = AutoModelForCausalLM.from_pretrained(finished.run_dir / "source_model")
    assert seen["source_loss"] == pytest.approx(_heldout_loss(exported, finished), rel=1e-5)


LONGER = "stages.full.steps=12"


@pytest.fixture(scope="module")
def lengthened(launch, undisturbed, prepared, tmp_path_factory) -> Finished:
    """The undisturbed run, gone on with for four steps more."""
    folder = tmp_path_factory.mktemp("lengthened")
    shutil.copytree(undisturbed.run_dir, folder / "run")
    return launch(write_recipe(folder, prepared), LONGER).finish()


def test_a_lengthened_stage_goes_on_and_any_other_change_is_refused(undisturbed, lengthened, launch):
    assert len(lengthened.metrics) == STEPS + 4 and "it was" not in lengthened.output
    assert lengthened.losses[:STEPS] == undisturbed.losses
    path = lengthened.run_dir.parent / "recipe.yaml"
    for overrides, words in [
        (["stages.full.steps=11"], "and never shorter"),
        ([LONGER, "stages.submodels.steps=8"], "made longer if no later one has started"),
        ([LONGER, "optimizer.lr=0.01"], "differs in optimizer.lr"),
    ]:
        launch(path, *overrides).refused(words)
    launch(path, LONGER, ds_config=FP32 | {"train_batch_size": 16}).refused("started with another train_batch_size")
    assert len(lengthened.metrics) == STEPS + 4


def test_another_zero_stage_and_micro_batch_go_on_and_are_said(undisturbed, lengthened, launch, recipe, tmp_path):
    shutil.copytree(undisturbed.run_dir, tmp_path / "run")
    words = [LONGER, "train_micro_batch_size_per_gpu=2", "activation_checkpointing=true"]
    moved = launch(recipe(), *words, ds_config={"zero_optimization": {"stage": 1}}).finish()
    for sentence in (
        "train_micro_batch_size_per_gpu 2 (it was 4)",
        "zero_optimization.stage 1 (it was 3)",
        "activation_checkpointing True (it was False)",
    ):
        assert sentence in moved.output
    # fp32 sums in another order, over four steps.
    assert moved.losses == pytest.approx(lengthened.losses, rel=1e-6)


@pytest.mark.parametrize(("before", "after"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.full)])
def test_a_run_goes_on_at_another_sequence_parallel_size(undisturbed, launch, recipe, before, after):
    """Killed in the source's training, so that growth and both further stages come after the change."""
    path = recipe()
    killed = launch(path, ranks=2, ds_config=FP32 | {"sequence_parallel_size": before})
    killed.wait_for_step(6)
    killed.kill()
    resumed = launch(path, ranks=2, ds_config=FP32 | {"sequence_parallel_size": after}).finish()
    assert "continues from its checkpoint of step 5" in resumed.output
    assert f"sequence_parallel_size {after} (it was {before})" in resumed.output
    # 22 steps in fp32; attention over slices, and the ranks of a batch, sum in another order.
    assert resumed.losses == pytest.approx(undisturbed.losses, rel=1e-5)
    assert resumed.summary["losses"] == pytest.approx(undisturbed.summary["losses"], rel=1e-5)


def test_a_run_directory_in_use_is_refused(launch, recipe):
    path = recipe(stages=[{"name": "full", "steps": 2000}])
    first = launch(path)
    first.wait_for_step(1)
    launch(path).refused(f"process {first.process.pid} on {socket.gethostname()} is writing to this directory")
    assert first.process.poll() is None
    first.kill()


def test_a_run_lengthened_and_killed_after_its_last_checkpoint_does_not_pass_for_finished(
    undisturbed, launch, recipe, tmp_path
):
    """Its summary and its exported model are those of the shorter run."""
    shutil.copytree(undisturbed.run_dir, tmp_path / "run")
    longer = launch(recipe(), "stages.full.steps=10")
    wait_for(lambda: (tmp_path / "run" / "model.partial").exists(), longer)
    longer.kill()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == STEPS
    resumed = launch(recipe(), "stages.full.steps=10").finish()
    assert resumed.summary["steps"] == STEPS + 2
    assert resumed.summary["losses"]["final"] != undisturbed.summary["losses"]["final"]


def test_a_lengthened_source_is_exported_anew(undisturbed, launch, recipe, tmp_path):
    """Killed after growth, before the target's first checkpoint, and started again with a longer source."""
    first = launch(recipe())
    wait_for(lambda: (tmp_path / "run" / "source_model").exists(), first)
    first.kill()
    assert (
        json.loads((tmp_path / "run" / "checkpoints" / latest(tmp_path / "run") / "progress.json").read_text())["step"]
        == SOURCE
    )
    longer = launch(recipe(), "source.steps=10").finish()
    assert longer.summary["losses"]["source"] != undisturbed.summary["losses"]["source"]
    assert longer.summary["steps"] == STEPS + 2


@pytest.mark.parametrize("name", ["zero1", "zero3_offload"])
def test_the_shipped_deepspeed_configurations_run_and_resume(launch, recipe, tmp_path, name):
    """The commands of the documents run zero2 and zero3."""
    ds_config = json.loads((ROOT / "ds_configs" / f"{name}.json").read_text())
    launch(recipe(), ds_config=ds_config).finish()
    resumed = launch(recipe(), "stages.full.steps=10", ds_config=ds_config, ranks=1).finish()
    assert "continues from its checkpoint of step 22" in resumed.output
    assert len(resumed.losses) == STEPS + 2


INSTANTS = [
    "data/*/plan.json",
    "data/*/work/clean",
    "data/*/work/tokenize",
    "data/*/manifest.json",
    "run/data.json",
    "run/ds_config.json.partial",
    "run/recipe.yaml",
    "run/checkpoints/*.partial",
    "run/checkpoints/latest",
    "run/source_model.partial",
    "run/source_model",
    "run/certificates/00.json",
    "run/checkpoints/step-00000013*",
    "run/checkpoints/step-00000014.partial",
    "run/checkpoints/step-00000022.partial",
    "run/checkpoints/step-00000022",
    "run/model.partial/model.safetensors",
    "run/model",
    "run/summary.json",
]
SAMPLE = ("data/*/work/clean", "run/certificates/00.json")
"""The two that `make test` takes; both come long enough before the end that the kill is sure to hit."""


@pytest.mark.parametrize(
    "instant", [pytest.param(i, marks=() if i in SAMPLE else pytest.mark.full, id=i.replace("/", ":")) for i in INSTANTS]
)
def test_killed_when_a_file_appears_and_started_again_nothing_is_lost(launch, recipe, tmp_path, instant, corpus, undisturbed):
    data = {
        "output_dir": str(tmp_path / "data"),
        "text": {"files": [str(corpus)], "heldout_fraction": 0.1},
        "tokenizer": {"vocab_size": 406},
        "sequence_length": 32,
    }
    path = recipe(data=data)
    killed = launch(path)
    wait_for(lambda: killed.process.poll() is not None or list(tmp_path.glob(instant)), killed)
    killed.kill()
    if instant in SAMPLE:
        assert killed.process.returncode == -signal.SIGKILL
    resumed = launch(path).finish()
    # The same text through the same tokenizer settings: the shards, and so the losses, of the shared run.
    assert resumed.losses == undisturbed.losses
    assert resumed.evaluations == undisturbed.evaluations
    assert resumed.summary["losses"] == undisturbed.summary["losses"]
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".partial")]


@pytest.mark.full
def test_the_quickstart_whole(launch, tmp_path):
    """Text to summary: a source well under the unigram entropy, an exact growth, a better model at the end."""
    recipe = ROOT / "launch" / "recipes" / "quickstart.yaml"
    overrides = [f"run_dir={tmp_path / 'run'}", f"data.output_dir={tmp_path / 'data'}"]
    ds_config = json.loads((ROOT / "ds_configs" / "zero3.json").read_text())
    finished = launch(recipe, *overrides, ranks=1, ds_config=ds_config).finish(timeout=1500)
    losses = finished.summary["losses"]
    assert losses["source"] < losses["unigram"] - 1
    assert finished.summary["growths"][0]["verdict"] == "exact" and finished.summary["growths"][0]["measured_agrees"]
    assert losses["final"] < losses["source"] - 0.1
