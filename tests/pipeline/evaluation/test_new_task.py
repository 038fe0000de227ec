"""What it takes to add a task: an object of its own, and its name in the registry."""

import json

import torch

from pipeline.evaluation.models import scorer_of
from pipeline.evaluation.registry import TUNING, ZERO_SHOT, check_task
from pipeline.evaluation.tuning.glue import Glue
from pipeline.evaluation.tuning.options import TuningOptions
from pipeline.evaluation.tuning.search import tune
from pipeline.evaluation.zero_shot.evaluate import Options, score_tasks
from pipeline.evaluation.zero_shot.last_word import LastWord, passages_of, texts_of
from tests.evaluated import open_model
from tests.pipeline.evaluation.tuning.conftest import bert, reviews  # noqa: F401 - fixtures

CAPITALS = LastWord(
    "capitals",
    folders=("capitals",),
    files=("capitals.jsonl",),
    hub=("nowhere/capitals", None),
    column="text",
    read_file=texts_of,
    examples=passages_of,
    settings={"target": "the capital"},
)


def test_a_zero_shot_task_is_an_object_in_the_registry(causal, tmp_path, monkeypatch):
    monkeypatch.setitem(ZERO_SHOT, CAPITALS.name, CAPITALS)
    check_task("capitals", "--task")
    texts = ["The capital of Norway is Oslo", "The capital of Peru is Lima"]
    (tmp_path / "capitals.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    model = open_model(causal)
    scorer = scorer_of(model.module, model.family, model.module, torch.device("cpu"))
    (scored,) = score_tasks(["capitals"], scorer, model.family, model.encoder, [tmp_path], Options())
    assert set(scored.metrics) == {"perplexity", "accuracy"} and scored.data["examples"] == 2
    assert scored.settings["target"] == "the capital"


def test_a_tuning_task_is_an_object_in_the_registry(bert, reviews, monkeypatch):  # noqa: F811
    reviews.joinpath("SST-2").rename(reviews / "Reviews")
    task = Glue("Reviews", ("sentence", None, "label"), metrics=("matthews", "accuracy"))
    monkeypatch.setitem(TUNING, task.name, task)
    options = TuningOptions(learning_rates=(3e-3,), batch_sizes=(8,), epochs=(1,), seeds=(1,), max_length=16)
    scored = tune("reviews", bert, [reviews], options)
    assert set(scored.metrics) == {"matthews", "accuracy"} and scored.settings["chosen_by"] == "matthews"
