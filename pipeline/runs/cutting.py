"""The records of a run that goes on from an earlier step, without those of the steps behind it."""

import json

from pipeline.runs.json_lines import JsonLines
from pipeline.runs.paths import RunPaths
from pipeline.runs.records import EvaluationRecord, ScoreRecord, StepRecord
from pipeline.runs.steps import StepLines, missing_steps


def cut_back(run: RunPaths, step: int) -> tuple[int, list[tuple[int, int]]]:
    """Drop the records of steps behind `step`, which are kept in lost.jsonl.

    Returns the executed FLOPs of all steps that the run has lost so far, and the gaps in those up to `step`: the first and
    the last of each.
    """
    metrics, lost = StepLines(run.metrics), JsonLines(run.lost, StepRecord)
    # A last line that was cut short must not become one in the middle.
    lost.keep(lambda _: True)
    # Written down before it is cut: killed in between, a record is found twice, and counted once.
    for record in metrics.read():
        if record["step"] > step:
            lost.append(record)
    lost.flush()
    metrics.keep(lambda record: record["step"] <= step)
    JsonLines(run.evaluations, EvaluationRecord).keep(lambda record: record["step"] <= step)
    # Few runs have any, and an empty file would say that this one has.
    if run.scores.exists():
        JsonLines(run.scores, ScoreRecord).keep(lambda record: record["step"] is None or record["step"] <= step)
    distinct = {json.dumps(record): record for record in lost.read()}
    return sum(record["flops_executed"] for record in distinct.values()), missing_steps(metrics.read(), step)
