"""Runs as processes: order, failures, stops, resumes."""

import threading
import time
from pathlib import Path

import pytest

from data_prep.errors import UserError
from pipeline.reproduction import runner
from pipeline.reproduction.runner import Runner
from pipeline.reproduction.tasks import Task
from pipeline.training.signals import Stopped
from tests.pipeline.report.recorded_runs import Made


@pytest.fixture
def templates(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "templates"
    Made(folder / "scratch", scratch=True).write()
    monkeypatch.setattr(runner, "_PRETRAIN", Path(__file__).with_name("pretend.py"))
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.02)
    monkeypatch.setenv("PRETEND", str(folder))
    return folder


def task(directory: Path, name: str) -> Task:
    recipe = Made(directory / "runs" / name, scratch=True).recipe
    return Task(name, directory, recipe)


def runner_of(jobs: int) -> Runner:
    return Runner(Path("zero0.json"), jobs, 1, lambda line: None)


def test_what_has_ended_is_not_run_again(templates, tmp_path):
    tasks = [task(tmp_path / "out", name) for name in ("a", "b", "c")]
    runner_of(1).finish(tasks[:2])
    runner_of(2).finish(tasks)
    assert (templates / "started").read_text().split() == ["a", "b", "c"]
    assert all(one.ended for one in tasks)


def test_a_run_that_fails_is_named_with_its_log_and_nothing_new_begins(templates, tmp_path):
    tasks = [task(tmp_path / "out", name) for name in ("a", "fails", "never")]
    with pytest.raises(UserError, match=r"logs/fails\.log: the run fails ended with status 3"):
        runner_of(1).finish(tasks)
    assert (templates / "started").read_text().split() == ["a", "fails"]


def test_a_stop_reaches_the_runs_in_hand_and_begins_no_other(templates, tmp_path):
    started = runner_of(1)

    def stop() -> None:
        deadline = time.monotonic() + 30
        while not (templates / "lasting").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        started.stop()

    threading.Thread(target=stop).start()
    with pytest.raises(Stopped):
        started.finish([task(tmp_path / "out", name) for name in ("lasts", "never")])
    assert (templates / "started").read_text().split() == ["lasts"]


def test_a_run_begun_with_other_settings_is_refused(templates, tmp_path):
    begun = task(tmp_path / "out", "a")
    runner_of(1).finish([begun])
    other = Task("a", tmp_path / "out", begun.recipe.model_copy(update={"seed": 9}))
    with pytest.raises(UserError, match="was begun with these settings, which the suite no longer has"):
        runner_of(1).finish([other])
