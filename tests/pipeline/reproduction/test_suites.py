"""The suites that launch/reproduce.py knows."""

from pathlib import Path

import pytest

from pipeline.common.errors import UserError
from pipeline.recipe import GrowStage, Recipe
from pipeline.reproduction.suite import Suite, load_suite
from pipeline.reproduction.tasks import Tasks
from tests.end_to_end.conftest import ROOT

SUITES = sorted((ROOT / "launch" / "suites").glob("*.yaml"))

_OF_A_METHOD = {"run_dir", "source", "target", "growth", "stages"}


@pytest.fixture(params=SUITES, ids=[path.stem for path in SUITES], scope="module")
def suite(request) -> Suite:
    return load_suite(request.param)


def tasks_of(suite: Suite) -> Tasks:
    """Of a suite in no particular directory."""
    return Tasks(suite, Path("anywhere"), None, ROOT / "ds_configs" / f"{suite.ds_config}.json")


@pytest.fixture(scope="module", name="recipes")
def recipes_of(suite) -> dict[str, list[Recipe]]:
    """Of each method's runs, by its key."""
    tasks, rates = tasks_of(suite), dict.fromkeys(suite.methods, 1e-3)
    found = {}
    for methods in (suite.methods, *(ablation.methods for ablation in suite.ablations.values())):
        runs = tasks.runs_of(methods, [1, 2], rates).values()
        found |= {name: [task.recipe for task in of_one] for name, of_one in zip(methods, runs, strict=True)}
    return found


def test_every_method_names_the_operators_that_it_is_about(recipes):
    """What `auto` takes may change; what a published figure was made with may not."""
    for name, of_one in recipes.items():
        for recipe in of_one:
            for phase in recipe.phases[1:]:
                assert phase.target.hidden_size is None or phase.growth.width != "auto", (name, phase.name)
                assert phase.target.num_hidden_layers is None or phase.growth.depth != "auto", (name, phase.name)


def test_methods_differ_in_nothing_but_where_they_start_and_how_they_grow(suite, recipes):
    by_name = recipes
    base = by_name[suite.baseline][0]
    start_losses = suite.ablations["start_losses"].methods if "start_losses" in suite.ablations else {}
    climbed_again = set()
    for name, (recipe, *_) in by_name.items():
        own, others = recipe.model_dump(), base.model_dump()
        assert {key for key in own if own[key] != others[key]} <= _OF_A_METHOD, name
        # At the first step Adam is fresh for all; the schedule's own warmup is that step's.
        fresh = False
        for stage in recipe.stages:
            if isinstance(stage, GrowStage):
                fresh = (stage.growth or recipe.growth).optimizer_state == "fresh"
                continue
            changed = (stage.lr, stage.schedule, stage.sequence_length, stage.weights, stage.train_batch_size)
            assert changed == (None,) * 5 and not stage.groups, name
            # Climbing to the rate again belongs to an Adam that begins anew during the run, and to nothing else.
            assert bool(stage.warmup_steps) == fresh, (name, stage.name)
            if fresh:
                climbed_again.add(stage.warmup_steps)
            fresh = False
        if name != "mslt" and name not in start_losses and suite.saved_at == "crossing":
            assert steps(recipe) == steps(base), name
    assert len(climbed_again) <= 1


def steps(recipe: Recipe) -> int:
    return sum(stage.steps for stage in recipe.stages if not isinstance(stage, GrowStage))


def test_no_two_methods_have_the_same_title(suite):
    titles = [
        method.title
        for methods in (suite.methods, *(one.methods for one in suite.ablations.values()))
        for method in methods.values()
    ]
    assert len(set(titles)) == len(titles)


def test_no_final_run_has_the_seed_of_the_sweep_or_of_a_source(suite, recipes):
    tasks = tasks_of(suite)
    final = {recipe.seed for runs in recipes.values() for recipe in runs}
    assert final.isdisjoint(
        task.recipe.seed for runs in tasks.sources(suite.methods.values(), [1, 2, 3]).values() for task in runs
    )
    swept = [[task.recipe.seed for task in runs] for sweep in tasks.sweeps().values() for runs in sweep.values()]
    assert all(seeds == suite.tuning_seeds for seeds in swept)
    assert final.isdisjoint(suite.tuning_seeds)


def test_a_method_from_no_such_source_is_refused(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(SUITES[0].read_text(encoding="utf-8").replace("grown_from: small", "grown_from: tiny", 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"grown_from: 'tiny' is not one of the sources; choose small"):
        load_suite(path)
