"""What a run writes and repairs where it goes on, without training anything."""

import json
from dataclasses import replace

import pytest

from pipeline.common.errors import UserError
from pipeline.training import distributed
from pipeline.training.directory.checkpoints import TrainState
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.loop.guard import GuardStoppedError
from pipeline.training.loop.steps import RewindError
from pipeline.training.run.resume import restored, rewound
from tests.ranks import run_ranks


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A run's, on one rank."""
    monkeypatch.setattr(distributed, "on_first_rank", lambda work: work())
    return RunDirectory(tmp_path)


def test_a_rewind_outlives_the_process_until_there_is_a_later_checkpoint(directory):
    saved = TrainState(1, 8, {"own": 64, "other": 5})

    def go_back(samples: int) -> TrainState:
        state = restored(directory, None, saved)
        return rewound(
            directory, restored(directory, None, saved), 2, state.rewinds, RewindError(12, "own", samples, "a spike")
        )

    for rewinds in (0, 1):
        assert restored(directory, None, saved).rewinds == rewinds
        go_back(96 + 8 * rewinds)
    state = restored(directory, None, saved)
    assert (state.step, state.rewinds, state.samples) == (8, 2, {"own": 104, "other": 5})
    for _ in range(2):
        with pytest.raises(GuardStoppedError, match="step 12: a spike, after going back 2 times"):
            go_back(1)
    state = restored(directory, None, replace(saved, step=13))
    assert (state.step, state.rewinds, state.samples) == (13, 0, saved.samples)
    assert restored(directory, None, None).rewinds == 0


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
    bad, full = "JSONDecodeError: bad: line 1 column 1 (char 0)", "UserError: a.pt: No space left; free disk space"
    assert first[0] == bad and second[0] == f"RuntimeError: rank 0: {bad}"
    assert first[1:] == second[1:] and first[1].startswith(full) and first[2] == "UserError: wrong"
