"""BERT on sentence pairs: masked words and next sentence (or sentence order) prediction, through a growth."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForPreTraining

from data_prep.manifest import PreparedData
from pipeline.data.corpora import open_batches
from pipeline.data.objectives import IGNORED, objective_for
from tests.end_to_end.conftest import FP32, write_recipe

LENGTH, WINDOWS = 32, 9


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Documents of a dozen short sentences, about one of several things each."""
    draw = random.Random(5)
    things = ["river stone water bank", "bread flour oven salt", "ship sail wind harbour", "lamp oil wick flame"]
    path = tmp_path_factory.mktemp("sentences") / "text.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(150):
            words = draw.choice(things).split()
            sentences = [" ".join(["The", *draw.choices(words, k=draw.randrange(3, 7))]) + "." for _ in range(12)]
            file.write(json.dumps({"text": " ".join(sentences)}) + "\n")
    return path


def pairs_recipe(directory: Path, prepared: PreparedData, text: Path, kind: str = "nsp", **changes: object) -> Path:
    data = {
        "output_dir": str(directory / "data"),
        "text": {"files": [str(text)], "heldout_fraction": 0.1},
        "tokenizer": {"vocab_size": 320},
        "sequence_length": LENGTH,
        "pairs": kind,
    }
    target = {"hidden_size": 64, "num_hidden_layers": 2}
    stages = [{"name": "submodels", "submodel_layers": 1, "steps": 5}, {"name": "full", "steps": 5}]
    return write_recipe(directory, prepared, "bert", **{"data": data, "target": target, "stages": stages} | changes)


@pytest.fixture(scope="module")
def finished(launch, prepared, text, tmp_path_factory):
    """A run on one rank."""
    return launch(pairs_recipe(tmp_path_factory.mktemp("pairs"), prepared, text), "train_micro_batch_size_per_gpu=8").finish()


def test_a_run_on_pairs_says_how_they_are_judged(finished):
    assert [record["stage"] for record in finished.evaluations] == ["source", "grown", "submodels", "full"]
    for record in finished.evaluations:
        assert 0 < record["pair_loss"] < 3 and record["pair_accuracy"] * WINDOWS == pytest.approx(
            round(record["pair_accuracy"] * WINDOWS)
        )
    source, grown = finished.evaluations[:2]
    (certificate,) = finished.summary["growths"]
    assert certificate["verdict"] == "exact" and certificate["measured"]["max_logit_difference"] < 1e-11
    # Float32 either side of an exact growth.
    assert grown["pair_loss"] == pytest.approx(source["pair_loss"], abs=1e-4)
    assert "of pairs: loss" in finished.output


def test_the_model_that_comes_out_has_its_pair_head(finished):
    """Hugging Face loads the exported directory, and finds the recorded losses and the recorded first loss is of both."""
    model, info = BertForPreTraining.from_pretrained(finished.run_dir / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    data = PreparedData(Path(finished.summary["paths"]["data"]))
    objective = objective_for("mlm", data.tokenizer, LENGTH)
    _, heldout = open_batches(data, {data.corpora[0].name: 1.0}, objective, 3, within_documents=False, pairs="nsp")
    batch = heldout.heldout(np.arange(WINDOWS))
    with torch.no_grad():
        outputs = model.eval()(**batch.inputs(torch.device("cpu")))
    scored = batch.labels != IGNORED
    words = torch.nn.functional.cross_entropy(outputs.prediction_logits[scored], batch.labels[scored]).item()
    pairs = torch.nn.functional.cross_entropy(outputs.seq_relationship_logits, batch.pair_labels).item()
    last = finished.evaluations[-1]
    assert (words, pairs) == pytest.approx((last["loss"], last["pair_loss"]), rel=1e-5)
    # Untrained, words are worth ln(vocabulary) and pairs ln 2.
    vocabulary = data.tokenizer.vocab_size
    assert finished.losses[0] == pytest.approx(np.log(vocabulary) + np.log(2), abs=0.3)


@pytest.mark.parametrize("sharing", [1, 2], ids=["each with sequences of its own", "sharing sequences"])
def test_two_ranks_on_pairs_give_the_losses_of_one(finished, launch, prepared, text, tmp_path, sharing):
    ds_config = FP32 | {"sequence_parallel_size": sharing}
    together = launch(pairs_recipe(tmp_path, prepared, text), ranks=2, ds_config=ds_config).finish()
    # 18 steps in fp32; the sums over the batch are taken in another order.
    assert together.losses == pytest.approx(finished.losses, rel=1e-5)
    for one, two in zip(finished.evaluations, together.evaluations, strict=True):
        assert two.pop("stage") == one["stage"]
        assert two == pytest.approx({key: one[key] for key in one if key != "stage"}, rel=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("step", [6, 14])
def test_a_run_on_pairs_killed_and_started_again_has_the_undisturbed_losses(finished, launch, prepared, text, tmp_path, step):
    path = pairs_recipe(tmp_path, prepared, text)
    interrupted = launch(path, "train_micro_batch_size_per_gpu=8")
    interrupted.wait_for_step(step)
    interrupted.kill()
    resumed = launch(path, "train_micro_batch_size_per_gpu=8").finish()
    assert resumed.losses == finished.losses and resumed.evaluations == finished.evaluations


@pytest.mark.full
def test_the_order_of_sentences_and_the_pair_head_alone(launch, prepared, text, tmp_path):
    """Layers and embeddings stand still: gradients begin at the pooler."""
    stages = [{"name": "head", "trainable": ["head"], "steps": 3}]
    run = launch(pairs_recipe(tmp_path, prepared, text, "sop", stages=stages)).finish()
    assert all(record["grad_norm"] > 0 for record in run.metrics)
    assert [record["stage"] for record in run.evaluations] == ["source", "grown", "head"]


def test_shards_of_documents_make_no_pairs(launch, prepared, tmp_path):
    data = {"shards": str(prepared.directory), "sequence_length": LENGTH, "pairs": "nsp"}
    launch(write_recipe(tmp_path, prepared, "bert", data=data)).refused(
        "are whole documents, not sentences; prepare the text again with"
    )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
