"""Runs as processes: order, failures, stops, resumes."""

import math
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.common.errors import UserError
from pipeline.reproduction import runner
from pipeline.reproduction.final_losses import recorded_end
from pipeline.reproduction.recorded_ends import write_recorded_ends
from pipeline.reproduction.runner import Runner
from pipeline.reproduction.task import Task
from pipeline.reproduction.tasks import swept_losses
from pipeline.runs import RunPaths
from pipeline.training.signals import Stopped
from tests.pipeline.report.recorded_runs import Made


@pytest.fixture
def templates(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "templates"
    Made(folder / "scratch", scratch=True).write()
    monkeypatch.setattr(runner, "_PRETRAIN", (str(Path(__file__).with_name("pretend.py")),))
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.02)
    monkeypatch.setenv("PRETEND", str(folder))
    return folder


def task(directory: Path, name: str) -> Task:
    recipe = Made(directory / "runs" / name, scratch=True).recipe
    return Task(name, directory, recipe)


def runner_of(jobs: int) -> Runner:
    return Runner(Path("zero0.json"), jobs, 1)


def test_what_follows_steps_that_diverged_has_diverged_and_what_follows_rewound_ones_runs_by_itself(templates, tmp_path):
    trunk = replace(task(tmp_path / "out", "diverges"), may_diverge=True)
    after = replace(task(tmp_path / "out", "after"), may_diverge=True, trunk=trunk)
    runner_of(1).finish([trunk, after])
    end = recorded_end(after)
    assert (end["diverged"], end["loss"], end["flops"], end["text"]) == (True, None, 0, "")
    write_recorded_ends(tmp_path / "ends.jsonl", [end, end | {"name": "other", "text": "a"}])

    trunk = task(tmp_path / "other", "trunk")
    runner_of(1).finish([trunk])
    RunPaths(trunk.run).rewound.write_text("{}")
    runner_of(1).finish([replace(task(tmp_path / "other", "branch"), trunk=trunk)])
    RunPaths(trunk.run).rewound.unlink()
    runner_of(1).finish([replace(task(tmp_path / "other", "next"), trunk=trunk)])
    assert (templates / "branched").read_text().split() == ["next"]


def test_under_nohup_a_suite_outlives_its_terminal():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        runner_of(1).stop_by_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_what_has_ended_is_not_run_again(templates, tmp_path):
    tasks = [task(tmp_path / "out", name) for name in ("a", "b", "c")]
    runner_of(1).finish(tasks[:2])
    runner_of(2).finish(tasks)
    assert (templates / "started").read_text().split() == ["a", "b", "c"]
    assert all(one.ended for one in tasks)


@pytest.mark.parametrize(("fails", "status"), [("fails", 9), ("diverges", 3)])
def test_a_run_that_fails_or_diverges_where_it_may_not_is_named_with_its_log_and_nothing_new_begins(
    templates, tmp_path, fails, status
):
    tasks = [task(tmp_path / "out", name) for name in ("a", fails, "never")]
    with pytest.raises(UserError, match=rf"logs/{fails}\.log: the run {fails} ended with status {status}"):
        runner_of(1).finish(tasks)
    assert (templates / "started").read_text().split() == ["a", fails]


def test_a_sweep_s_run_that_diverges_has_ended_for_good_with_an_infinite_loss(templates, tmp_path):
    tasks = [replace(task(tmp_path / "out", name), may_diverge=True) for name in ("diverges", "a")]
    runner_of(1).finish(tasks)
    runner_of(1).finish(tasks)
    assert (templates / "started").read_text().split() == ["diverges", "a"]
    losses = swept_losses({1e-3: tasks})[1e-3]
    assert losses[0] == math.inf
    assert losses[1] < 5


def stop_once_it_lasts(templates: Path, started: Runner) -> None:
    def stop() -> None:
        deadline = time.monotonic() + 60
        while not (templates / "lasting").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        started.stop()

    threading.Thread(target=stop).start()


@pytest.mark.parametrize(
    ("lasting", "raised", "words"),
    [
        ("lasts", Stopped, ""),
        # One that fails as it is stopped is named.
        ("lasts-and-fails", UserError, "the run lasts-and-fails ended with status 9"),
    ],
)
def test_a_stop_reaches_the_runs_in_hand_and_begins_no_other(templates, tmp_path, lasting, raised, words):
    started = runner_of(1)
    stop_once_it_lasts(templates, started)
    tasks = [task(tmp_path / "out", name) for name in (lasting, "never")]
    with pytest.raises(raised, match=words or None):
        started.finish(tasks)
    assert not tasks[0].ended
    assert (templates / "started").read_text().split() == [lasting]


def test_a_run_whose_start_a_stop_falls_into_is_told(templates, tmp_path, monkeypatch):
    """Signalled before it listens, it is ended by the signal itself; without one it would go on to the end."""
    started, start = runner_of(1), Runner._start

    def stopped_meanwhile(self, one):
        process = start(self, one)
        self.stop()
        return process

    monkeypatch.setattr(Runner, "_start", stopped_meanwhile)
    run = task(tmp_path / "out", "a")
    with pytest.raises(Stopped):
        started.finish([run])
    assert not run.ended


def test_a_run_begun_with_other_settings_is_refused(templates, tmp_path):
    earlier = task(tmp_path / "out", "a")
    runner_of(1).finish([earlier])
    other = Task("a", tmp_path / "out", earlier.recipe.model_copy(update={"seed": 9}))
    with pytest.raises(UserError, match="was started with these settings, which the suite no longer has"):
        runner_of(1).finish([other])


def test_a_run_grown_before_its_source_was_trained_anew_is_refused(templates, tmp_path):
    out = tmp_path / "out"
    source = task(out, "source")
    runner_of(1).finish([source])
    grown = Made(out / "runs" / "grown", given=str(source.run))
    grown.write()
    of_it = Task("grown", out, grown.recipe)
    runner_of(1).finish([of_it])
    later = (grown.path / "certificates" / "00.json").stat().st_mtime + 1
    os.utime(source.run / "summary.json", (later, later))
    with pytest.raises(UserError, match=r"runs/grown: was grown before .*/runs/source was trained again; remove that run"):
        runner_of(1).finish([of_it])
