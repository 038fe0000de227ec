"""What is reported of a suite by where its runs end, from made-up runs."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pipeline.planning.record import read_entries
from pipeline.recipe import Recipe
from pipeline.reproduction import final_loss_results, results_page
from pipeline.reproduction.final_loss_results import write_final_losses
from pipeline.reproduction.final_losses import end_of, next_runs, saved_by_final_loss
from pipeline.reproduction.results_page import SuiteRuns
from pipeline.reproduction.suite import load_suite
from pipeline.reproduction.task import Task
from tests.pipeline.report.recorded_runs import Made, known_source
from tests.pipeline.reproduction.test_progressive import suite_file
from tests.pipeline.reproduction.test_results import rows


def ended(directory: Path, name: str, loss: float, of: dict[str, object] | None = None, **made: object) -> Task:
    """A run that ended with a loss: from scratch at 4 GFLOP a step, with a smaller source at 1 GFLOP for each of its steps."""
    run = Made(directory / "runs" / name, **made)
    run.write()
    evaluations = run.path / "eval.jsonl"
    *others, last = map(json.loads, evaluations.read_text().splitlines())
    evaluations.write_text("".join(json.dumps(one) + "\n" for one in [*others, last | {"loss": loss}]))
    # Stages of sub-models, which these runs have else, are none that a planner's record has.
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("submodel_layers: 1", "submodel_layers: null"))
    return Task(name, directory, Recipe.model_validate(run.recipe), **(of or {}))


def scratch(directory: Path, seed: int, loss: float, **of: object) -> Task:
    """The baseline: 60 steps, 240 GFLOP."""
    own = {"method": "scratch", "title": "from scratch"} | of
    return ended(directory, f"scratch-{seed}", loss, of=own, scratch=True, seed=seed)


def grown(directory: Path, seed: int, steps: int, loss: float, **of: object) -> Task:
    """A method: 20 steps at 1 GFLOP, then some at 4."""
    name = f"copied-{steps}-{seed}"
    own = {"method": "copied", "title": "copied", "length": (20 + 4 * steps) / 240} | of
    return ended(directory, name, loss, of=own, steps=steps, seed=seed)


def write_own(write, place: Path, plots: list) -> None:
    """Of a page's figures, which take long, the one that is the suite's own."""
    write(place, [plot for plot in plots if plot.name == "ends"])


def saved(tasks: list[Task], baseline: list[Task]):
    ended = [end_of(task) for task in tasks if not task.diverged]
    return saved_by_final_loss(
        ended, {end.seed: end.point for end in map(end_of, baseline)}, [task.recipe.seed for task in tasks]
    )


def on_the_line(first: float, last: float) -> float:
    """The compute two thirds of the way between two runs, in its logarithm."""
    return math.exp(math.log(first) + (math.log(last) - math.log(first)) * 2 / 3)


@pytest.mark.parametrize(
    ("ends", "counted", "source_free", "at_least"),
    [
        # It ends as low as the baseline, at 4.0 for 240 GFLOP; a shorter run might have been there too.
        ([(30, 3.9)], 140, 120, True),
        # It ends higher: nothing is known to be saved.
        ([(30, 4.1)], None, None, False),
        # Between lengths the loss is interpolated in the logarithm of compute.
        ([(20, 4.2), (40, 3.9), (55, 3.8)], on_the_line(100, 180), on_the_line(80, 160), False),
        # Below the shortest run nothing is extrapolated.
        ([(20, 3.9), (40, 3.9)], 100, 80, True),
    ],
)
def test_a_run_that_ends_as_low_saves_the_compute_that_it_did_not_take(tmp_path, ends, counted, source_free, at_least):
    one = saved([grown(tmp_path, 1, steps, loss) for steps, loss in ends], [scratch(tmp_path, 1, 4.0)])
    for saving, cost in ((one.counted, counted), (one.source_free, source_free)):
        assert saving.mean == (None if cost is None else pytest.approx(1 - cost / 240)) and saving.runs == 1
    assert one.by_seed == {1: one.counted.mean} and one.at_least == at_least


def test_a_seed_whose_run_diverged_has_not_come_to_the_loss(tmp_path):
    runs = [grown(tmp_path, seed, 30, 3.9) for seed in (1, 2)]
    runs[1].mark_diverged()
    one = saved(runs, [scratch(tmp_path, seed, 4.0) for seed in (1, 2)])
    assert one.by_seed == {1: pytest.approx(1 - 140 / 240), 2: None}
    assert one.counted.runs == 2


def test_each_seed_is_held_against_the_baseline_s_of_that_seed(tmp_path):
    baseline = [scratch(tmp_path, seed, loss) for seed, loss in ((1, 4.0), (2, 3.8))]
    one = saved([grown(tmp_path, seed, 30, 3.9) for seed in (1, 2, 3)], baseline)
    assert one.by_seed == {1: pytest.approx(1 - 140 / 240), 2: None}
    assert (len(one.counted.shares), one.counted.runs) == (1, 2)


def written(tmp_path: Path, monkeypatch, ends: dict[str, list[Task]]) -> str:
    """The results of runs at one horizon, without pages."""
    monkeypatch.setattr(final_loss_results, "_write_report", lambda *_: None)
    suite = load_suite(suite_file(tmp_path, horizons=[1]))
    write_final_losses(tmp_path / "out", SuiteRuns(suite, "made up", 1, {"scratch": 1e-3}, {}, {1.0: ends}))
    return (tmp_path / "out" / "results.md").read_text()


def test_a_mean_is_of_all_seeds_or_none(tmp_path, monkeypatch):
    baseline = [scratch(tmp_path, seed, 4.0) for seed in (1, 2)]
    longest = [grown(tmp_path, seed, 55, loss) for seed, loss in ((1, 3.9), (2, 4.2))]
    page = written(tmp_path, monkeypatch, {"from scratch": baseline, "copied": [*longest, grown(tmp_path, 1, 40, 4.1)]})
    # The first seed's run, and not the second's, came to the loss, so that only it has a shorter one.
    assert rows(page, "method")["copied"][1:3] == ["reached by 1 of 2 seeds", "13, –"]
    ends = rows(page, "run")
    assert ends["copied, 75%"][-1] == "+0.1000 (1 of 2 seeds)"
    assert ends["copied, 100%"][-1] == "+0.0500 ± 0.2121"


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ((4.10, 4.11), "is on the frontier here: none of them ends as low"),
        ((3.90, 3.91), "is **not** on the frontier here"),
        ((4.10, 3.95), "is not decided"),
        ((4.10,), "is on the frontier here, by one seed"),
    ],
)
def test_the_frontier_is_of_runs_for_the_same_compute_and_by_more_than_seeds_differ(tmp_path, monkeypatch, losses, says):
    seeds = range(1, len(losses) + 1)
    of = {"method": "longer", "title": "longer"}
    alone = [
        # A run of half the compute says nothing of the frontier, however high it ends.
        ended(tmp_path, f"longer-{steps}-{seed}", loss, of=of | {"length": length}, steps=steps, seed=seed)
        for seed, at_one in zip(seeds, losses, strict=True)
        for steps, length, loss in ((55, 1.0, at_one), (25, 0.5, 9.0))
    ]
    page = written(tmp_path, monkeypatch, {"from scratch": [scratch(tmp_path, seed, 4.0) for seed in seeds], "longer": alone})
    assert says in page


def test_a_shorter_run_is_made_where_the_longer_one_came_to_the_loss(tmp_path):
    aim = scratch(tmp_path, 1, 4.0)
    waiting = Task("waiting", tmp_path, aim.recipe, length=0.5)
    reached, missed, given_up = grown(tmp_path, 1, 40, 4.0), grown(tmp_path, 1, 41, 4.01), grown(tmp_path, 1, 42, 3.9)
    given_up.mark_diverged()
    for longest, due in ((reached, [waiting]), (missed, []), (given_up, [])):
        assert next_runs([[waiting, longest]], aim) == due
    assert next_runs([[waiting, replace(waiting, name="longer", length=0.8)]], aim)[0].name == "longer"
    # Nothing is known as long as the baseline has not ended.
    assert next_runs([[waiting, reached]], replace(aim, name="not yet")) == []


def test_a_given_source_counts(tmp_path):
    task = ended(tmp_path, "given", 3.9, given="small", inherited=known_source())
    end = end_of(task)
    assert end.spent == 260e9 and end.at_last_size == 240e9
    unknown = end_of(ended(tmp_path, "unknown", 3.9, given="small"))
    assert unknown.spent is None
    one = saved([unknown.task], [scratch(tmp_path, 1, 4.0)])
    assert one.counted.mean is None and one.source_free.mean == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_results_have_each_horizon_with_its_frontier_and_a_record_of_all_runs(tmp_path, monkeypatch):
    own = partial(write_own, results_page.write_figures)
    monkeypatch.setattr(results_page, "write_figures", own)
    suite = load_suite(suite_file(tmp_path))
    rates = dict.fromkeys(suite.methods, 1e-3) | {"copied": 2e-3}
    sweeps = {
        name: {
            rate: [ended(tmp_path, f"sweep-{name}-{rate}", loss, scratch=True, seed=501)]
            for rate, loss in ((1e-3, 4.0 if name == "scratch" else 4.2), (2e-3, 4.1))
        }
        for name in ("scratch", "copied")
    }

    def fixed_size(folder: Path, loss: float, horizon: float) -> Task:
        of = {"method": "longer", "title": "longer", "length": 1.0, "horizon": horizon}
        return ended(folder, f"longer-x{horizon:g}", loss, of=of, steps=55, seed=1)

    one = {"method": "one", "title": "one"}
    at_d = {
        "from scratch": [scratch(tmp_path, 1, 4.0)],
        "one": [ended(tmp_path, "one", 4.15, of=one, scratch=True, seed=1)],
        "longer": [fixed_size(tmp_path, 4.1, 1.0)],
        "copied": [grown(tmp_path, 1, steps, loss) for steps, loss in ((20, 4.2), (40, 3.9))],
        "random": [],
    }
    later = tmp_path / "later"
    at_four_d = {"from scratch": [scratch(later, 1, 4.0, horizon=4.0)], "longer": [fixed_size(later, 3.9, 4.0)]}
    out = tmp_path / "out"
    write_final_losses(out, SuiteRuns(suite, "made up", 1, rates, sweeps, {1.0: at_d, 4.0: at_four_d}))
    written = (out / "results.md").read_text()
    at_one, at_four = written.split("### Horizon 4")
    table = rows(at_one, "method")
    assert table["from scratch"] == ["1", "baseline", "baseline", "baseline"]
    assert table["copied"] == ["1", "38.3 %", "38", "47.1 %"]
    assert table["longer"][1] == "not reached"
    ends = rows(at_one, "run")
    assert ends["copied, 42%"][2:] == ["41.7%", "33.3%", "4.2000", "+0.2000"]
    assert "(from scratch) is on the frontier here" in at_one
    assert "is **not** on the frontier here" in at_four
    assert "one, on as many tokens, ends +0.150 nats above the target: the target is better by 0.1 nats or more." in at_one
    assert "Rates are those of the horizon 1." in at_four and "Rates are those of the horizon 1." not in at_one
    swept = rows(written, "sweep")
    assert swept["from scratch"] == ["**0.001: 4.0000**, 0.002: 4.1000", "0.001 (at the edge)", "2.0"]
    assert swept["copied"][:2] == ["0.001: 4.2000, **0.002: 4.1000**", "0.002 (at the edge)"]
    assert "2 trials of each, with seeds that no final run has (501). They cost 4.0 times a run from scratch" in written
    for horizon in ("1", "4"):
        page = (out / f"horizon-{horizon}" / "report.html").read_text()
        assert "compute saved, everything counted" in page and "Where runs end" in page
        assert (out / f"horizon-{horizon}" / "figures" / "ends.png").exists()
    records = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert [(one["horizon"], one["trial"]) for one in records if one["method"] == "copied"] == [(1.0, False)] * 2
    assert len(read_entries([out / "runs.jsonl"])) == len({one["run"] for one in records})
