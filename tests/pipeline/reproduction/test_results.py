"""What is reported of a suite, from made-up runs."""

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.common.errors import UserError
from pipeline.reproduction import results_page
from pipeline.reproduction.results import write_results
from pipeline.reproduction.results_page import SuiteRuns
from pipeline.reproduction.suite import MethodConfig
from pipeline.reproduction.task import Task
from pipeline.reproduction.tasks import best_rates
from tests.pipeline.report.recorded_runs import Made
from tests.pipeline.reproduction.test_suites import SUITES, load_suite


def task(directory: Path, name: str, **made: object) -> Task:
    run = Made(directory / "runs" / name, **made)
    run.write()
    return Task(name, directory, run.recipe)


@pytest.fixture
def sweep(tmp_path):
    """Losses end 0.003 a seed apart."""
    seeds = {1e-3: (5, 6), 2e-3: (1, 2), 3e-3: (3, 9)}
    return {
        rate: [task(tmp_path, f"sweep-{rate}-{seed}", scratch=True, seed=seed) for seed in of_rate]
        for rate, of_rate in seeds.items()
    }


def test_the_rate_is_the_one_with_the_lowest_mean(sweep):
    assert best_rates(load_suite(SUITES[0]), {"scratch": sweep})["scratch"] == 2e-3


def test_a_rate_with_a_run_that_ended_without_a_loss_is_not_taken(sweep, tmp_path):
    evaluations = sweep[2e-3][1].run / "eval.jsonl"
    *lines, _ = evaluations.read_text().splitlines(keepends=True)
    evaluations.write_text("".join(lines))
    assert best_rates(load_suite(SUITES[0]), {"scratch": sweep})["scratch"] == 1e-3
    for runs in sweep.values():
        (runs[0].run / "eval.jsonl").write_text("".join(lines))
    with pytest.raises(UserError, match="lower the suite's rates"):
        best_rates(load_suite(SUITES[0]), {"scratch": sweep})["scratch"]


def rows(written: str, head: str) -> dict[str, list[str]]:
    """The rows of the table whose first column has this head."""
    _, _, after = written.partition(f"| {head} |")
    table = [line.split("|") for line in after.split("\n\n")[0].splitlines()[2:]]
    return {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in table}


def results(directory: Path, methods: dict, sources: dict | None = None, jobs: int = 1) -> str:
    """What is written of runs."""
    suite = load_suite(SUITES[0])
    titles = suite.model_copy(update={"methods": {suite.baseline: MethodConfig(title="scratch")}})
    write_results(directory, SuiteRuns(titles, "made up", jobs, {suite.baseline: 1e-3}, {}, {1.0: methods}, sources or {}))
    return (directory / "results.md").read_text()


def test_a_method_that_grows_twice_is_told_by_its_growth_into_the_target(tmp_path):
    methods = {
        "scratch": [task(tmp_path, "scratch", scratch=True)],
        "once": [task(tmp_path, "once")],
        "twice": [task(tmp_path, "twice", growths=2)],
        "not yet": [],
    }
    sources = {"as good": [task(tmp_path, "source", scratch=True, seed=0)]}
    written = results(tmp_path / "out", methods, sources, jobs=2)
    of_methods, at_equal_compute = rows(written, "method"), rows(written, "held-out loss after")
    assert of_methods["once"][4] == "5.5000"
    assert of_methods["twice"][4] == "5.4000"
    assert "not yet" not in of_methods
    # At its own end the baseline has its own final loss; what it costs is what all shares are of.
    assert at_equal_compute["scratch"][3] == of_methods["scratch"][5]
    assert of_methods["scratch"][6] == "100%"
    assert "Of as good the loss is as low as the baseline's" in written
    assert "2 runs shared the machine at a time; times are not comparable." in written


def without_a_last_loss(one: Task) -> Task:
    evaluations = one.run / "eval.jsonl"
    *others, last = map(json.loads, evaluations.read_text().splitlines())
    evaluations.write_text("".join(json.dumps(record) + "\n" for record in [*others, last | {"loss": None}]))
    return one


def test_a_loss_before_the_last_step_is_no_final_loss(tmp_path):
    methods = {
        "scratch": [task(tmp_path, "scratch", scratch=True)],
        "lost": [without_a_last_loss(task(tmp_path, "lost"))],
        "half": [task(tmp_path, "half-1"), without_a_last_loss(task(tmp_path, "half-2", seed=2))],
    }
    sources = {"small": [without_a_last_loss(task(tmp_path, "source", scratch=True, seed=0))]}
    written = results(tmp_path / "out", methods, sources)
    of_methods = rows(written, "method")
    assert of_methods["lost"][5] == "none"
    assert of_methods["half"][5].endswith(" (1 of 2 runs)")
    assert rows(written, "source")["small"][1] == "none"
    assert "shared the machine" not in written


@pytest.mark.slow
def test_runs_are_compared_with_the_baseline_s_of_the_same_seed(tmp_path):
    methods = {
        "scratch": [task(tmp_path, f"scratch-{seed}", scratch=True, seed=seed) for seed in (1, 2)],
        "grown": [task(tmp_path, f"grown-{seed}", seed=seed) for seed in (1, 2, 3)],
    }
    both = rows(results(tmp_path / "out", methods), "method")["grown"][2].split(", ")
    methods = {name: runs[1:2] for name, runs in methods.items()}
    second = rows(results(tmp_path / "second", methods), "method")["grown"]
    assert len(both) == 2 and both[1] == second[2]
    assert f"{float(second[1].removesuffix(' %')):.0f}" == second[2]


def test_a_run_that_diverged_is_named_and_left_out(tmp_path):
    methods = {
        "scratch": [task(tmp_path, "scratch", scratch=True)],
        "half": [task(tmp_path, "half-1"), task(tmp_path, "half-2", seed=2)],
        "lost": [task(tmp_path, "lost")],
    }
    for one in (methods["half"][1], methods["lost"][0]):
        one.mark_diverged()
    written = results(tmp_path / "out", methods)
    assert rows(written, "method")["half"][0] == "1"
    assert "lost" not in rows(written, "method")
    assert "Diverged, and left out of all figures: half-2, lost." in written


def test_a_baseline_that_ended_without_a_loss_is_named(tmp_path):
    methods = {"scratch": [without_a_last_loss(task(tmp_path, "scratch", scratch=True))]}
    with pytest.raises(UserError, match="runs/scratch: the run of the baseline ended with a held-out loss that is no number"):
        results(tmp_path / "out", methods)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_results_say_by_which_commit_and_of_which_days(tmp_path, monkeypatch):
    runs = [task(tmp_path, f"scratch-{seed}", scratch=True, seed=seed) for seed in (1, 2)]
    for run, day in zip(runs, (1, 3), strict=True):
        end = datetime(2026, 2, day, 23, 59, tzinfo=UTC).timestamp()
        os.utime(run.run / "summary.json", (end, end))
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    monkeypatch.setattr(results_page, "_REPOSITORY", checkout)
    assert results_page.provenance(runs) == []
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "c"], ["tag", "-am", "d", "v7"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=b", *arguments], cwd=checkout, check=True)
    said = "Written at commit v7; the first of the runs ended on 2026-02-01, the last on 2026-02-03 (UTC)."
    assert results_page.provenance(runs) == [[said]]
