"""The suites that launch/reproduce.py knows."""

from pathlib import Path

import pytest

from data_prep.errors import UserError
from pipeline.recipe import GrowStage
from pipeline.reproduction.suite import TUNING_SEEDS, Suite, load_suite
from pipeline.reproduction.tasks import Tasks
from tests.end_to_end.conftest import ROOT

SUITES = sorted((ROOT / "launch" / "suites").glob("*.yaml"))

_OF_A_METHOD = {"run_dir", "source", "target", "growth", "stages"}


@pytest.fixture(params=SUITES, ids=[path.stem for path in SUITES])
def suite(request) -> Suite:
    return load_suite(request.param)


def recipes(suite: Suite):
    tasks = Tasks(suite, Path("anywhere"), None)
    methods = [suite.methods, *(ablation.methods for ablation in suite.ablations.values())]
    runs_of = {title: runs for some in methods for title, runs in tasks.runs_of(some, [1, 2], 1e-3).items()}
    assert len(runs_of) == sum(map(len, methods)), "two methods have the same title"
    return {title: [task.recipe for task in runs] for title, runs in runs_of.items()}


def test_methods_differ_in_nothing_but_where_they_start_and_how_they_grow(suite):
    by_title = recipes(suite)
    base = by_title[suite.methods[suite.baseline].title][0].model_dump()
    for title, runs in by_title.items():
        other = runs[0].model_dump()
        assert {key for key in base if base[key] != other[key]} <= _OF_A_METHOD, title
        trained = [stage for stage in runs[0].stages if not isinstance(stage, GrowStage)]
        for stage in trained:
            own = (stage.lr, stage.schedule, stage.sequence_length, stage.weights, stage.train_batch_size)
            assert own == (None,) * 5 and not stage.groups, title
        if "52 of 40 parts" not in title and "one step" not in title:
            assert sum(stage.steps for stage in trained) == sum(stage["steps"] for stage in base["stages"]), title


def test_no_final_run_has_the_seed_of_the_sweep_or_of_a_source(suite):
    tasks = Tasks(suite, Path("anywhere"), None)
    final = {recipe.seed for runs in recipes(suite).values() for recipe in runs}
    assert final.isdisjoint(TUNING_SEEDS)
    assert final.isdisjoint(
        task.recipe.seed for runs in tasks.sources(suite.methods.values(), [1, 2, 3]).values() for task in runs
    )
    assert all([task.recipe.seed for task in runs] == list(TUNING_SEEDS) for runs in tasks.sweep().values())


def test_a_method_from_no_such_source_is_refused(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(SUITES[0].read_text(encoding="utf-8").replace("grown_from: small", "grown_from: tiny", 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"grown_from: 'tiny' is none of the sources; choose small"):
        load_suite(path)
