"""What is told of a suite, from made-up runs."""

from pathlib import Path

import pytest

from data_prep.errors import UserError
from pipeline.reproduction.results import Comparison, write_results
from pipeline.reproduction.tasks import Task, best_rate
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
    assert best_rate(load_suite(SUITES[0]), sweep) == 2e-3


def test_a_rate_with_a_run_that_ended_without_a_loss_is_not_taken(sweep, tmp_path):
    evaluations = sweep[2e-3][1].run / "eval.jsonl"
    *lines, _ = evaluations.read_text().splitlines(keepends=True)
    evaluations.write_text("".join(lines))
    assert best_rate(load_suite(SUITES[0]), sweep) == 1e-3
    for runs in sweep.values():
        (runs[0].run / "eval.jsonl").write_text("".join(lines))
    with pytest.raises(UserError, match="lower the suite's rates"):
        best_rate(load_suite(SUITES[0]), sweep)


def rows(results: str, head: str) -> dict[str, list[str]]:
    """The rows of the table whose first column has this head."""
    _, _, after = results.partition(f"| {head} |")
    table = [line.split("|") for line in after.split("\n\n")[0].splitlines()[2:]]
    return {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in table}


def test_a_method_that_grows_twice_is_told_by_its_growth_into_the_target(tmp_path):
    methods = {
        "scratch": [task(tmp_path, "scratch", scratch=True)],
        "once": [task(tmp_path, "once")],
        "twice": [task(tmp_path, "twice", growths=2)],
        "not yet": [],
    }
    sources = {"as good": [task(tmp_path, "source", scratch=True, seed=0)]}
    write_results(tmp_path / "out", Comparison("made up", 1e-3, {}, sources, methods, "scratch"))
    results = (tmp_path / "out" / "results.md").read_text()
    of_methods, at_equal_compute = rows(results, "method"), rows(results, "held-out loss after")
    assert of_methods["once"][3] == "5.5000"
    assert of_methods["twice"][3] == "5.4000"
    assert "not yet" not in of_methods
    # At its own end the baseline has its own final loss; what it costs is what all shares are of.
    assert at_equal_compute["scratch"][3] == of_methods["scratch"][4]
    assert of_methods["scratch"][5] == "100%"
    assert "Of as good the loss is as low as the baseline's" in results
