"""A run's records where it goes on from an earlier step."""

import json

from pipeline.runs import JsonLines, RunPaths, StepLines
from pipeline.runs.cutting import cut_back

STEP = {"stage": "source", "submodel_layers": None, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 8, "mfu": None}
STEP |= {"flops_model": 10, "flops_executed": 10, "flops_total": 10, "seconds": 0.5, "skipped": False}
"""A line of metrics.jsonl but for its number."""


def test_a_line_of_lost_steps_that_was_cut_short_is_dropped_before_others_follow(tmp_path):
    """Twice, as by two crashes."""
    lines = [json.dumps(STEP | {"step": step}) + "\n" for step in range(1, 6)]
    (tmp_path / "lost.jsonl").write_text(lines[4] + lines[3][:8])
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:8])
    for _ in range(2):
        assert cut_back(RunPaths(tmp_path), 1) == (30, [])
        assert [record["step"] for record in StepLines(tmp_path / "metrics.jsonl").read()] == [1]
    assert (tmp_path / "lost.jsonl").read_text() == lines[4] + lines[1] + lines[2]


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl", dict)
    lines.append({"step": 1})
    lines.append({"step": 2})
    with open(lines.path, "a", encoding="utf-8") as file:
        file.write('{"step": 3, "lo')
    assert lines.read() == [{"step": 1}, {"step": 2}]
    lines.keep(lambda record: record["step"] <= 1)
    lines.append({"step": 2})
    assert lines.read() == [{"step": 1}, {"step": 2}]
