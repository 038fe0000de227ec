"""Runs as sources: exported, grown offline with Adam's state, trained on from there; and growth that only training can hold."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from pipeline.training.signals import EXIT_STOPPED
from tests.end_to_end.conftest import ROOT


@pytest.fixture
def grow(launch):
    """Run launch/grow.py."""

    def run(*words):
        launch.script(["launch/grow.py", *map(str, words)], ROOT).finish()

    return run


def test_a_run_is_exported_and_gone_on_from_without_its_data(undisturbed, launch, grow, recipe, prepared, corpus, tmp_path):
    """Its tokenizer lies in each checkpoint, and in what is grown from one. Whatever else lies about is nobody's."""
    shutil.copytree(undisturbed.run_dir, tmp_path / "moved")
    (tmp_path / "moved" / "data.json").unlink()
    grow("--source", tmp_path / "moved", "--format", "zero3", "--world_size", 2, "--out", tmp_path / "grown")
    (tmp_path / "data.json").write_text("no JSON")
    own = (prepared.directory / "tokenizer" / "tokenizer.model").read_bytes()
    for name in ("moved", "grown"):
        grow("--source", tmp_path / name, "--format", "hf", "--out", tmp_path / f"{name}-model")
        assert (tmp_path / f"{name}-model" / "tokenizer.model").read_bytes() == own
    text = {"files": [str(corpus)], "heldout_fraction": 0.1}
    data = {"output_dir": str(tmp_path / "data"), "text": text, "sequence_length": 32}
    started = launch(recipe(data=data, **trained_on(tmp_path / "grown"))).finish()
    assert (Path(started.summary["paths"]["data"]) / "tokenizer" / "tokenizer.model").read_bytes() == own
    # The same tokens as the run's own: the loss that it ended with.
    assert started.summary["losses"]["source"] == pytest.approx(undisturbed.summary["losses"]["final"], rel=1e-5)


def trained_on(source, **growth):
    """Changes to the toy recipe: five more steps from a source that is given."""
    return {
        "source": {"path": str(source)},
        "target": {},
        "growth": growth,
        "stages": [{"name": "more", "steps": 5}],
        "schedule": {"name": "constant"},
    }


def test_training_goes_on_from_a_grown_zero_checkpoint_at_any_number_of_ranks(undisturbed, launch, grow, recipe, tmp_path):
    """Grown offline for two ranks, Adam's state with it, and started on one and on three: as from the run itself."""
    sizes = "hidden_size=96,num_attention_heads=12"
    words = ("--width", "fpi", "--optimizer_state", "grow", "--seed", 3)
    grow(
        "--source",
        undisturbed.run_dir,
        "--target",
        sizes,
        *words,
        "--format",
        "zero3",
        "--world_size",
        2,
        "--out",
        tmp_path / "g",
    )
    certificate = json.loads((tmp_path / "g" / "certificate.json").read_text())
    assert certificate["verdict"] == "exact" and certificate["measured_agrees"]

    runs = {}
    for name, source, target, ranks in (
        ("zero-1", tmp_path / "g", {}, 1),
        ("zero-3", tmp_path / "g", {}, 3),
        ("live", undisturbed.run_dir, {"hidden_size": 96, "num_attention_heads": 12}, 2),
    ):
        changes = trained_on(source, width="fpi", optimizer_state="grow")
        path = recipe(**changes | {"target": target, "train_batch_size": 12})
        runs[name] = launch(path, f"run_dir={tmp_path / name}", ranks=ranks).finish()
    for name in ("zero-1", "zero-3"):
        # fp32 sums in another order, over five steps.
        assert runs[name].losses == pytest.approx(runs["live"].losses, rel=1e-5), name
    # Moments that started anew would make larger first steps; the test could not tell where they went otherwise.
    fresh = launch(recipe(**trained_on(tmp_path / "g") | {"train_batch_size": 12}), f"run_dir={tmp_path / 'fresh'}").finish()
    assert fresh.losses[0] == pytest.approx(runs["live"].losses[0], rel=1e-5)
    assert abs(fresh.losses[-1] - runs["live"].losses[-1]) > 1e-3


def test_a_post_ln_model_grows_exactly_at_any_ratio_in_training(launch, recipe, tmp_path):
    """`auto` takes weighted norm statistics for BERT at x1.5, which turn to stock ones within the 14 steps that there are."""
    path = recipe("bert", growth={}, target={"hidden_size": 48})
    finished = launch(path).finish()
    assert "width: fpi, since no operator is exact under a stock post-LN norm at 32 -> 48" in finished.output
    assert "norm_anneal_steps: 14, since the model is trained for no more steps" in finished.output
    certificate = finished.summary["growths"][0]
    assert certificate["growth"]["norm_anneal_steps"] == 14
    assert certificate["verdict"] == "exact" and certificate["measured_agrees"]
    assert certificate["measured"]["max_logit_difference"] < 1e-12
    assert certificate["in_training"]["max_logit_difference"] < 1e-4
    progress = [json.loads(path.read_text()) for path in sorted((finished.run_dir / "checkpoints").glob("*/progress.json"))]
    # The last but one was saved before the last step, at which they are stock.
    assert [one["norms_weighted_until"] for one in progress] == [22, None]
    growth = {"width": "fpi", "norm_statistics": "weighted", "norm_anneal_steps": 15}
    path = recipe("bert", growth=growth, target={"hidden_size": 48})
    launch(path, f"run_dir={tmp_path / 'other'}").refused("15 steps are more than the target's 14")


def test_a_run_stopped_while_its_norms_are_weighted_goes_on_and_is_no_source(launch, grow, recipe, tmp_path):
    """A stock model of those weights computes something else."""
    path = recipe(
        "bert",
        source={"model": {"family": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}, "steps": 2},
        growth={"width": "fpi", "norm_statistics": "weighted", "norm_anneal_steps": 20},
        target={"hidden_size": 48},
        stages=[{"name": "full", "steps": 30}],
        checkpointing={"every": 100},
    )
    whole = launch(path, f"run_dir={tmp_path / 'whole'}").finish()
    stopped = launch(path)
    stopped.wait_for_step(6)
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.wait().status == EXIT_STOPPED
    words = ["launch/grow.py", "--source", str(stopped.run_dir), "--format", "hf", "--out", str(tmp_path / "out")]
    launch.script(words, ROOT).refused("progress.json: the model's norms are weighted until step 22 of its run")
    assert not (tmp_path / "out").exists()
    resumed = launch(path).finish()
    assert "continues from its checkpoint of step" in resumed.output
    assert resumed.losses == whole.losses
    grow("--source", resumed.run_dir, "--format", "hf", "--out", tmp_path / "out")
