"""Scores as lines of JSON."""

import dataclasses
import json
import math

import pytest

from pipeline.common.errors import UserError
from pipeline.evaluation.scores import LOWER_IS_BETTER, Score, read_scores, record, table

SCORE = Score(
    model="runs/a/model",
    model_digest="4c85",
    stage="full",
    step=620,
    task="wikitext2",
    metrics={"word_perplexity": 31.25, "accuracy": 0.5},
    deviations={"accuracy": 0.125},
    data={"source": "test.txt", "digest": "00", "examples": 3, "note": None},
    settings={"window": 128, "lr": [1e-5, 2e-5]},
    seconds=1.5,
    config_digest="c0",
    tokenizer_digest="70",
)


def test_a_score_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "new" / "scores.jsonl"
    record(path, [])
    assert not path.exists()
    record(path, [SCORE])
    assert read_scores(path) == [SCORE]


def test_of_one_model_task_data_and_settings_the_last_score_stays(tmp_path):
    path = tmp_path / "scores.jsonl"
    others = [
        dataclasses.replace(SCORE, task="ptb"),
        dataclasses.replace(SCORE, model_digest="ffff"),
        dataclasses.replace(SCORE, settings={"window": 64}),
        dataclasses.replace(SCORE, data=SCORE.data | {"digest": "11"}),
        dataclasses.replace(SCORE, tokenizer_digest="of another"),
        dataclasses.replace(SCORE, config_digest="of another"),
        dataclasses.replace(SCORE, step=640),
        dataclasses.replace(SCORE, stage="another"),
        dataclasses.replace(SCORE, data=SCORE.data | {"examples": 2, "note": "the first 2 of 3 examples"}),
        # During training there is no digest of the weights: the directory stands for them.
        dataclasses.replace(SCORE, model_digest=None),
        dataclasses.replace(SCORE, model_digest=None, step=640),
    ]
    again = dataclasses.replace(SCORE, model="moved", settings={"lr": (1e-5, 2e-5), "window": 128}, seconds=9.0)
    record(path, [SCORE, *others])
    record(path, [again])
    assert [score.seconds for score in read_scores(path)] == [1.5] * len(others) + [9.0]


def test_scores_of_files_without_all_digests_are_read_and_left_alone(tmp_path):
    path = tmp_path / "scores.jsonl"
    old = {key: value for key, value in SCORE.to_json().items() if not key.endswith(("config_digest", "tokenizer_digest"))}
    path.write_text(json.dumps(old) + "\n")
    assert read_scores(path) == [dataclasses.replace(SCORE, config_digest=None, tokenizer_digest=None)]
    record(path, [SCORE])
    assert len(read_scores(path)) == 2


def test_what_is_no_number_is_null_in_the_file_and_nan_when_read(tmp_path):
    path = tmp_path / "scores.jsonl"
    record(path, [dataclasses.replace(SCORE, metrics={"word_perplexity": math.inf})])
    assert '"word_perplexity": null' in path.read_text()
    assert math.isnan(read_scores(path)[0].metrics["word_perplexity"])


def test_a_line_that_is_no_score_is_named_and_one_cut_short_is_none(tmp_path):
    path = tmp_path / "scores.jsonl"
    record(path, [SCORE])
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"model": "cut sh')
    assert len(read_scores(path)) == 1
    path.write_text('{"step": 3}\n')
    with pytest.raises(UserError, match=r"scores\.jsonl: line 1: model: Field required; put the file back"):
        record(path, [SCORE])


def test_the_table_has_a_line_a_metric():
    lines = table([SCORE]).splitlines()
    assert lines[0].split() == ["runs/a/model", "(step", "620)", "wikitext2", "word_perplexity", "31.2500"]
    assert lines[1].endswith("0.5000 +- 0.1250")
    assert "word_perplexity" in LOWER_IS_BETTER and "accuracy" not in LOWER_IS_BETTER
