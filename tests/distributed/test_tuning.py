"""Fine-tuning on several ranks: they share out each batch and agree on the scores."""

import sys
from pathlib import Path

import pytest

from pipeline.cli import evaluate
from pipeline.evaluation.scores import read_scores
from tests.pipeline.evaluation.tuning.conftest import bert, reviews  # noqa: F401 - fixtures
from tests.ranks import run_ranks


def _tune(model: Path, data: Path):
    from pipeline.evaluation.tuning.options import TuningOptions
    from pipeline.evaluation.tuning.search import tune

    options = TuningOptions(learning_rates=(3e-3,), batch_sizes=(8,), epochs=(4,), seeds=(1,), max_length=16)
    scored = tune("sst2", model, [data], options)
    return scored.metrics, scored.settings["ranks"]


@pytest.mark.full
def test_ranks_learn_together(bert, reviews):  # noqa: F811
    (metrics, ranks), others = run_ranks(_tune, 2, bert, reviews)
    assert (metrics, ranks) == others
    assert metrics["accuracy"] >= 0.9 and ranks == 2


def _evaluate(words: list[str]) -> int:
    sys.argv = ["evaluate.py", *words]
    return evaluate.main()


@pytest.mark.full
def test_the_command_tunes_on_ranks_and_records_once(bert, reviews, tmp_path):  # noqa: F811
    words = ["--model", str(bert), "--task", "sst2", "--data", str(reviews), "--out", str(tmp_path / "scores.jsonl")]
    words += ["--learning_rates", "3e-3", "--tuning_batch_sizes", "8", "--epochs", "4", "--seeds", "1", "--max_length", "16"]
    assert run_ranks(_evaluate, 2, words) == [0, 0]
    (score,) = read_scores(tmp_path / "scores.jsonl")
    assert score.metrics["accuracy"] >= 0.9
    assert score.settings["ranks"] == 2
