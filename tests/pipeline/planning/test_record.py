import json
import re

import pytest

from pipeline.common.errors import UserError
from pipeline.families import graph_of, scratch_config
from pipeline.planning.recipes import question_of
from pipeline.planning.record import add_runs, entry_of, read_entries
from pipeline.recipe import ModelConfig
from tests.pipeline.planning.made import STEP, VOCABULARY, recipe
from tests.pipeline.report.recorded_runs import TOKENS, Made

WHOLE = [{"name": "submodels", "steps": 30}, {"name": "full", "steps": 30}]
"""The stages of a made-up run, without sub-models."""
GROWN = {"stages": WHOLE, "growth": {"depth": "stack", "optimizer_state": "grow", "new_moments": "copied"}}


def test_a_grown_run_is_noted_with_both_sizes_their_tokens_and_what_they_cost(tmp_path):
    Made(tmp_path / "grown", changes=GROWN).write()
    add_runs(tmp_path / "record.jsonl", [tmp_path / "grown"])
    (entry,) = read_entries([tmp_path / "record.jsonl"])
    small, large = entry["phases"]
    vocabulary = entry["vocab_size"]
    for phase, steps, cost, sizes in ((small, 20, 1, (32, 3, 4)), (large, 60, 4, (64, 5, 8))):
        assert (phase["hidden_size"], phase["num_hidden_layers"], phase["num_attention_heads"]) == sizes
        assert (phase["tokens"], phase["flops"]) == (steps * TOKENS, steps * cost * 10**9)
        model = ModelConfig(family="gpt2", hidden_size=sizes[0], num_hidden_layers=sizes[1], num_attention_heads=sizes[2])
        assert phase["parameters"] == graph_of(scratch_config(model, vocabulary, 0, 32)).parameters
    assert entry["flops"] == 260 * 10**9
    # Operators are those that the made-up certificate names; the run's schedule begins anew with each model.
    growth = {"width": "nai", "depth": "last_layer", "optimizer_state": "grow", "schedule_anew": True}
    assert entry["growths"] == [growth | {"options": {"new_moments": "copied"}}]


def test_the_phases_of_a_given_source_stand_before_those_of_the_run_grown_from_it(tmp_path):
    source = Made(tmp_path / "small", scratch=True, steps=40).write()
    (source / "model").mkdir()
    config = scratch_config(Made(source, scratch=True).recipe.source.model, 61, 0, 32)
    config.save_pretrained(source / "model")
    Made(tmp_path / "grown", given=str(source), changes={"stages": WHOLE, "target": {"num_hidden_layers": 7}}).write()
    add_runs(tmp_path / "record.jsonl", [tmp_path / "grown"])
    (entry,) = read_entries([tmp_path / "record.jsonl"])
    assert [phase["tokens"] for phase in entry["phases"]] == [40 * TOKENS, 60 * TOKENS]
    assert entry["flops"] == 400 * 10**9
    assert entry["growths"][0]["schedule_anew"]


def test_a_run_is_added_once_and_of_a_folder_those_that_cannot_be_are_left_out_with_the_reason(tmp_path, caplog):
    runs = tmp_path / "runs"
    Made(runs / "whole", scratch=True).write()
    Made(runs / "parts").write()
    Made(runs / "cut", scratch=True, recorded=10).write()
    caplog.set_level("INFO")
    for _ in range(2):
        add_runs(tmp_path / "record.jsonl", [runs])
    assert [entry["name"] for entry in read_entries([tmp_path / "record.jsonl"])] == ["whole"]
    assert any("parts: its stage submodels trains a part of the model" in line for line in caplog.messages)
    assert any("cut: the run has not ended" in line for line in caplog.messages)
    with pytest.raises(UserError, match="cut: the run has not ended"):
        add_runs(tmp_path / "record.jsonl", [runs / "cut"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: neither a run directory nor a folder of some"):
        add_runs(tmp_path / "other.jsonl", [tmp_path / "empty"])
    assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda entry: entry | {"loss": None}, "record.jsonl: line 1: loss: "),
        (lambda entry: entry | {"growths": [1]}, "record.jsonl: line 1: growths"),
        (lambda entry: entry | {"phases": entry["phases"] * 2}, "whole has 2 phases and 0 growths"),
        (lambda entry: entry | {"loss": -3.0}, "record.jsonl: line 1: loss: "),
        (lambda entry: entry | {"flops": 1}, "whole: flops is not the sum of those of its phases"),
        (lambda entry: entry | {"schedule": {"name": "wsd"}}, "record.jsonl: line 1: schedule.decay_ratio: "),
        (lambda entry: entry | {"phases": [entry["phases"][0] | {"tokens": 0}]}, "record.jsonl: line 1: phases.0.tokens: "),
        (lambda entry: grown_from(entry, num_hidden_layers=1000), "whole: a model is smaller than the one before it"),
    ],
)
def test_a_damaged_line_of_a_record_is_named(change, sentence, tmp_path):
    Made(tmp_path / "whole", scratch=True).write()
    record = tmp_path / "record.jsonl"
    add_runs(record, [tmp_path / "whole"])
    record.write_text(json.dumps(change(json.loads(record.read_text()))) + "\n")
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_entries([record])


def grown_from(entry: dict, **sizes: int) -> dict:
    """The entry with another size before its own."""
    growth = {"width": None, "depth": "stack", "optimizer_state": "grow", "schedule_anew": False, "options": {}}
    phases = [entry["phases"][0] | sizes, entry["phases"][0]]
    return entry | {"phases": phases, "growths": [growth], "flops": 2 * entry["flops"]}


def test_a_last_line_without_its_end_counts_and_two_lines_of_one_run_that_differ_are_refused(tmp_path):
    Made(tmp_path / "whole", scratch=True).write()
    record = tmp_path / "record.jsonl"
    add_runs(record, [tmp_path / "whole"])
    line = record.read_text().rstrip("\n")
    record.write_text(line)
    assert len(read_entries([record])) == 1
    # Nothing new leaves the file as it is.
    add_runs(record, [tmp_path / "whole"])
    assert record.read_text() == line
    other = json.dumps(json.loads(line) | {"loss": 9.0})
    record.write_text(f"{line}\n{other}\n")
    with pytest.raises(UserError, match=r"another line with the id .* differs"):
        read_entries([record])
    with pytest.raises(UserError, match="no such record"):
        read_entries([tmp_path / "nowhere.jsonl"])


@pytest.mark.parametrize(
    ("made", "text", "says"),
    [
        ({"scratch": True}, "another", "was trained on other text"),
        ({"changes": GROWN}, None, "was itself grown"),
    ],
)
def test_a_given_source_of_other_text_or_that_was_grown_is_refused(tmp_path, made, text, says):
    source = Made(tmp_path / "small", **made).write()
    asked = recipe(data=Made(source).recipe.data)
    with pytest.raises(UserError, match=f"--source: .*{says}"):
        question_of(asked, 2000 * STEP, text or entry_of(source)["text"], VOCABULARY, source)
