"""Suites that go on from how runs ended elsewhere."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.commands import reproduce
from pipeline.commands.reproduce import _with_their
from pipeline.common.errors import UserError
from pipeline.reproduction import final_loss_results
from pipeline.reproduction.final_loss_results import write_final_losses
from pipeline.reproduction.final_losses import end_of, recorded_end, write_ended
from pipeline.reproduction.recorded_ends import read_recorded_ends, settings_of, write_recorded_ends
from pipeline.reproduction.results_page import SuiteRuns
from pipeline.reproduction.suite import load_suite
from pipeline.reproduction.tasks import Tasks
from tests.end_to_end.conftest import ROOT
from tests.pipeline.reproduction.test_final_losses import ended, grown, scratch
from tests.pipeline.reproduction.test_progressive import DS_CONFIG, suite_file


@pytest.fixture
def no_pages(monkeypatch):
    """Pages and figures take long, and are tested elsewhere."""
    monkeypatch.setattr(final_loss_results, "_write_report", lambda *_: None)


def test_what_ended_elsewhere_is_told_as_what_ended_here(tmp_path, no_pages):
    suite = load_suite(suite_file(tmp_path))
    diverged = grown(tmp_path, 2, 30, 3.9, may_diverge=True)
    diverged.mark_diverged()
    finals = {
        "from scratch": [scratch(tmp_path, seed, 4.0) for seed in (1, 2)],
        "copied": [grown(tmp_path, 1, 20, 4.2), grown(tmp_path, 1, 40, 3.9), diverged],
    }
    trials = {
        rate: [ended(tmp_path, f"sweep-{rate}", loss, scratch=True, seed=501, of={"may_diverge": True})]
        for rate, loss in ((1e-3, 4.0), (2e-3, 4.1))
    }

    def write(out: Path, known: dict) -> str:
        def at(task):
            return replace(task, recorded=known.get(task.name))

        of_all = {name: [at(task) for task in of_one] for name, of_one in finals.items()}
        sweeps = {"scratch": {rate: [at(task) for task in of_one] for rate, of_one in trials.items()}}
        write_final_losses(out, SuiteRuns(suite, "made up", 1, {"scratch": 1e-3}, sweeps, {1.0: of_all}))
        return (out / "results.md").read_text()

    here = write(tmp_path / "here", {})
    shutil.rmtree(tmp_path / "runs")
    elsewhere = write(tmp_path / "elsewhere", read_recorded_ends([tmp_path / "here" / "ends.jsonl"]))
    assert "Diverged" in here and "| reached by 1 of 2 seeds | 38, – |" in here
    dates = r"first of the runs ended on \S+ the last on \S+"
    assert re.sub(dates, "", elsewhere) == re.sub(dates, "", here)
    assert (tmp_path / "elsewhere" / "ends.jsonl").read_text() == (tmp_path / "here" / "ends.jsonl").read_text()


def test_known_runs_and_the_first_steps_that_they_share_are_not_run(tmp_path):
    suite = load_suite(suite_file(tmp_path))
    rates = dict.fromkeys(suite.methods, 1e-3)

    def tasks(known: dict) -> tuple[list, list]:
        of_suite = Tasks(suite, tmp_path, None, DS_CONFIG, known)
        runs = of_suite.runs_of(suite.methods, [1], rates)
        return of_suite.shared([task for of_one in runs.values() for task in of_one])

    trunks, found = tasks({})
    assert len(_with_their(trunks, found)) > len(found)
    one = found[0]
    end = recorded_end(scratch(tmp_path, 1, 4.0)) | {"name": one.name, "settings": settings_of(one.recipe)}
    known = {task.name: end | {"name": task.name, "settings": settings_of(task.recipe)} for task in found}
    _, ended_elsewhere = tasks(known)
    assert all(task.ended and not task.diverged for task in ended_elsewhere)
    assert _with_their(trunks, ended_elsewhere) == ended_elsewhere
    assert end_of(ended_elsewhere[0]).loss == 4.0
    # The text's place is not among a run's settings; its rate is.
    moved = one.recipe.model_copy(update={"run_dir": "elsewhere"})
    assert settings_of(moved) == settings_of(one.recipe)
    with pytest.raises(UserError, match=f"--known: the run {one.name} was made with other settings"):
        tasks({one.name: end | {"settings": "other"}})


def test_results_are_written_where_nothing_has_ended(tmp_path, no_pages):
    suite = load_suite(suite_file(tmp_path))
    tasks = Tasks(suite, tmp_path, None, DS_CONFIG).runs_of(suite.methods, [1], dict.fromkeys(suite.methods, 1e-3))
    write_final_losses(tmp_path / "out", SuiteRuns(suite, "made up", 1, {"scratch": 1e-3}, {}, {1.0: tasks}))
    assert (tmp_path / "out" / "ends.jsonl").read_text() == ""
    assert "first of the runs" not in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.parametrize("name", ["progressive", "progressive_adamw"])
def test_the_committed_ends_of_a_suite_are_those_of_its_settings(name, tmp_path):
    known = read_recorded_ends([ROOT / "docs" / "results" / name / "ends.jsonl"])
    suite = load_suite(ROOT / "launch" / "suites" / f"{name}_cpu.yaml")
    swept = Tasks(suite, tmp_path, None, DS_CONFIG, known).sweeps()
    assert swept.keys() == suite.methods.keys()
    assert all(task.recorded is not None for sweep in swept.values() for runs in sweep.values() for task in runs)


def test_ends_of_two_texts_are_not_written_and_a_file_that_is_not_there_is_refused(tmp_path):
    end = recorded_end(scratch(tmp_path, 1, 4.0))
    with pytest.raises(UserError, match="different texts or tokenizers"):
        write_recorded_ends(tmp_path / "ends.jsonl", [end, end | {"name": "other", "text": "other"}])
    with pytest.raises(UserError, match=r"--known: .*ends\.jsonl does not exist"):
        read_recorded_ends([tmp_path / "ends.jsonl"])


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"loss": "none"}, r"ends\.jsonl: line 2: loss"),
        ({"loss": 2.0}, "another line says that scratch-1 ended otherwise"),
        ({"name": "other", "text": "other"}, "scratch-1 and other were made with different texts"),
        ({"name": "other", "flops": 0}, "other ended with no FLOPs"),
        ({"name": "other", "loss": 0.0}, "other ended with no FLOPs, or with a loss of 0 or less"),
        ({"name": "other", "flops_at_last_size": 0}, "other ended with no FLOPs"),
        ({"name": "other", "loss": -1.0}, "other ended with no FLOPs, or with a loss of 0 or less"),
    ],
)
def test_ends_that_contradict_each_other_or_cannot_be_are_refused(tmp_path, second, says):
    end = recorded_end(scratch(tmp_path, 1, 4.0))
    path = tmp_path / "ends.jsonl"
    # The last line has no end, and counts.
    path.write_text(json.dumps(end) + "\n" + json.dumps(end | second))
    with pytest.raises(UserError, match=says):
        read_recorded_ends([path])


def test_what_is_known_of_others_stays_in_the_file(tmp_path, no_pages):
    task = scratch(tmp_path, 1, 4.0)
    other = recorded_end(task) | {"name": "other"}
    write_ended(tmp_path, [task], {"other": other, task.name: other})
    assert list(read_recorded_ends([tmp_path / "ends.jsonl"])) == [task.name, "other"]


def test_ends_of_another_suite_or_text_are_refused_before_anything_is_run(tmp_path, capsys, monkeypatch):
    end = recorded_end(scratch(tmp_path, 1, 4.0))
    trial = scratch(tmp_path, 501, 4.0)
    with pytest.raises(UserError, match="none of the 1 runs there is a trial of this suite"):
        reproduce._check_recorded({end["name"]: end}, [trial])
    known = replace(trial, recorded=end)
    monkeypatch.setattr(reproduce, "prepared_text", lambda *_: None)
    reproduce._check_recorded({end["name"]: end}, [known, trial])
    assert "--known: 1 of 2 trials, and 0 other runs" in capsys.readouterr().out
    prepared = SimpleNamespace(manifest=SimpleNamespace(fingerprint="another"))
    monkeypatch.setattr(reproduce, "prepared_text", lambda *_: prepared)
    with pytest.raises(UserError, match="and here it is another"):
        reproduce._check_recorded({end["name"]: end}, [known])
