"""What a run writes and repairs where it goes on, without training anything."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.common.errors import UserError
from pipeline.flops.ledger import Ledger
from pipeline.recipe import load_recipe
from pipeline.training import distributed
from pipeline.training.directory.checkpoints import CheckpointMetadata
from pipeline.training.loop.guard import GuardStoppedError
from pipeline.training.loop.loop import RewindError, TrainState
from pipeline.training.run import pretraining as run
from pipeline.training.run.pretraining import Run
from pipeline.training.signals import StopRequest
from tests.ranks import run_ranks

QUICKSTART = Path(__file__).parents[3] / "launch" / "recipes" / "quickstart.yaml"


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begin the same run, on one rank."""
    monkeypatch.setattr(distributed, "on_first_rank", lambda work: work())
    # What only looks at the device and at the model.
    for name, method in (("Monitors", "opened"), ("Utilization", "measured")):
        monkeypatch.setattr(run, name, SimpleNamespace(**{method: lambda *_: None}))
    for name in ("Progress", "Workload", "Watchdog", "compute_dtype"):
        monkeypatch.setattr(run, name, lambda *_, **__: None)
    return lambda: Run(load_recipe(QUICKSTART, [f"run_dir={tmp_path}", "guard.rewinds=2"]), {}, StopRequest())


STEP = {"stage": "source", "submodel_layers": None, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 8, "mfu": None}
STEP |= {"flops_model": 10, "flops_executed": 10, "flops_total": 10, "seconds": 0.5, "skipped": False}
"""A line of metrics.jsonl but for its number."""

PREPARED = SimpleNamespace(given=None, training_plan=None, config=None)


def test_a_line_of_lost_steps_that_was_cut_short_is_dropped_before_others_follow(tmp_path, begin):
    """Twice, as by two crashes."""
    lines = [json.dumps(STEP | {"step": step}) + "\n" for step in range(1, 6)]
    (tmp_path / "lost.jsonl").write_text(lines[4] + lines[3][:8])
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:8])
    for _ in range(2):
        position = TrainState(step=1)
        records = begin()._open_records(PREPARED, position)
        assert position.ledger.wasted == 30
        assert [record["step"] for record in records.metrics.read()] == [1]
    assert (tmp_path / "lost.jsonl").read_text() == lines[4] + lines[1] + lines[2]


def test_a_rewind_outlives_the_process_until_there_is_a_later_checkpoint(begin):
    saved = CheckpointMetadata(1, 8, {"own": 64, "other": 5}, 0, 0.0, Ledger().to_json())
    for rewinds in (0, 1):
        # A process of its own each time, as where the one before it was killed.
        process = begin()
        position = process._state(PREPARED, saved)
        assert position.rewinds == rewinds
        process._rewound(PREPARED, saved, position.rewinds, RewindError(12, "own", 96 + 8 * rewinds, "a spike"))
    position = begin()._state(PREPARED, saved)
    assert (position.step, position.rewinds, position.samples) == (8, 2, {"own": 104, "other": 5})
    for _ in range(2):
        with pytest.raises(GuardStoppedError, match="step 12: a spike, after going back 2 times"):
            begin()._rewound(PREPARED, saved, begin()._state(PREPARED, saved).rewinds, RewindError(12, "own", 1, "a spike"))
    position = begin()._state(PREPARED, replace(saved, step=13))
    assert (position.step, position.rewinds, position.samples) == (13, 0, saved.samples)
    assert begin()._state(PREPARED, None).rewinds == 0


def fail_on_the_first_rank() -> list[str]:
    def work(error: Exception) -> None:
        raise error

    said = []
    for error in (json.JSONDecodeError("bad", "x", 0), OSError(28, "No space left", "a.pt"), UserError("wrong")):
        try:
            distributed.on_first_rank(lambda error=error: work(error))
        except Exception as raised:
            said.append(f"{type(raised).__name__}: {raised}")
    return said


def test_an_error_on_the_first_rank_is_one_on_every_rank():
    first, second = run_ranks(fail_on_the_first_rank, 2)
    bad, full = "JSONDecodeError: bad: line 1 column 1 (char 0)", "UserError: a.pt: No space left; make room"
    assert first[0] == bad and second[0] == f"RuntimeError: rank 0: {bad}"
    assert first[1:] == second[1:] and first[1].startswith(full) and first[2] == "UserError: wrong"
