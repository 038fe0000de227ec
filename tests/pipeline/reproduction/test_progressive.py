"""Suites of one run from small to large: lengths by shares and by compute, sweeps, horizons, and first steps in common."""

import copy
from pathlib import Path

import pytest
import yaml

from pipeline.common.errors import UserError
from pipeline.recipe import GrowStage
from pipeline.reproduction.suite import load_suite
from pipeline.reproduction.tasks import Tasks, flops_by_stage, planned
from pipeline.training.run.branching import common_steps
from tests.end_to_end.conftest import ROOT

DS_CONFIG = ROOT / "ds_configs" / "zero0.json"

_MODEL = {"family": "gpt2", "hidden_size": 16, "num_attention_heads": 2}
_SMALL = {"source": {"model": _MODEL | {"num_hidden_layers": 1}}}


def grows(depth: str) -> list[dict]:
    """Half of the horizon at one layer, then four."""
    growth = {"depth": depth, "optimizer_state": "grow"}
    return [
        {"name": "small", "share": 0.5},
        {"name": "deepen", "grow": {"num_hidden_layers": 4}, "growth": growth},
        {"name": "full", "rest": True},
    ]


SUITE = {
    "title": "small",
    "ds_config": "zero0",
    "steps": 400,
    "horizons": [1, 4],
    "saved_at": "end",
    "shared_steps": 50,
    "sweep": "each",
    "rates": [1.0e-3, 2.0e-3],
    "tuning_seeds": [501],
    "base": {
        "train_batch_size": 4,
        "train_micro_batch_size_per_gpu": 4,
        "data": {"text": {"corpus": "python_docs"}, "tokenizer": {"vocab_size": 384}, "sequence_length": 16},
        "source": {"model": _MODEL | {"num_hidden_layers": 4}},
        "target": {},
        "stages": [{"name": "full", "share": 1.0}],
        "optimizer": {"lr": 4.0e-3, "muon_lr": 2.0e-2, "name": "muon"},
        "schedule": {"name": "wsd", "warmup_steps": 20, "decay_ratio": 0.25, "span": "run"},
    },
    "sources": {},
    "baseline": "scratch",
    "methods": {
        "scratch": {"title": "from scratch"},
        "one": {"title": "one", "source_size": True, "recipe": _SMALL | {"stages": [{"name": "small", "share": 1.0}]}},
        "longer": {
            "title": "longer",
            "frontier": True,
            "lengths": [1.0],
            "recipe": _SMALL | {"stages": [{"name": "small", "rest": True}]},
        },
        "copied": {"title": "copied", "lengths": [0.5, 0.8], "recipe": _SMALL | {"stages": grows("stack")}},
        "random": {
            "title": "random",
            "lengths": [0.5],
            "horizons": [1],
            "rates": [3.0e-3, 5.0e-3],
            "recipe": _SMALL | {"stages": grows("random")},
        },
    },
}


def suite_file(tmp_path: Path, **changes: object) -> Path:
    """Write the suite with a method changed, or a key of its own."""
    content = copy.deepcopy(SUITE)
    for name, change in changes.items():
        if name in content["methods"]:
            content["methods"][name] |= change
        else:
            content[name] = change
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Tasks:
    folder = tmp_path_factory.mktemp("suite")
    return Tasks(load_suite(suite_file(folder)), folder, None, DS_CONFIG)


def finals(tasks: Tasks, horizon: float) -> dict:
    """The runs of one seed at a horizon, by their names."""
    suite = tasks._suite
    runs = tasks.runs_of(suite.methods, [1], dict.fromkeys(suite.methods, 1e-3), horizon)
    return {task.name: task for of_one in runs.values() for task in of_one}


def steps(task) -> list[int]:
    return [stage.steps for stage in task.recipe.stages if not isinstance(stage, GrowStage)]


def test_shares_are_of_the_horizon_and_lengths_of_the_baseline_s_compute(tasks):
    for horizon, ending in ((1, ""), (4, "-x4")):
        found = finals(tasks, horizon)
        assert steps(found[f"scratch{ending}-seed1"]) == steps(found[f"one{ending}-seed1"]) == [400 * horizon]
        whole = sum(flops_by_stage(found[f"scratch{ending}-seed1"].recipe, DS_CONFIG).values())
        for name, length in (("copied", 0.5), ("copied", 0.8), ("longer", 1.0)):
            task = found[f"{name}{ending}-at{length:g}-seed1"]
            spent = flops_by_stage(task.recipe, DS_CONFIG)
            last = list(spent)[-1]
            # As near as a step allows.
            assert abs(sum(spent.values()) - length * whole) <= spent[last] / steps(task)[-1] / 2
            assert task.recipe.schedule.warmup_steps == 20
        assert (f"random{ending}-at0.5-seed1" in found) == (horizon == 1)


def test_each_method_is_swept_in_as_many_trials_with_a_seed_of_their_own(tasks):
    sweeps = tasks.sweeps()
    assert list(sweeps) == list(SUITE["methods"])
    assert {name: list(sweep) for name, sweep in sweeps.items()} == {name: [1e-3, 2e-3] for name in sweeps} | {
        "random": [3e-3, 5e-3]
    }
    trials = [task for sweep in sweeps.values() for runs in sweep.values() for task in runs]
    assert all(task.recipe.seed == 501 for task in trials)
    assert len({task.name for task in trials}) == len(trials) == 10
    # The ratio of the matrices' rate to the others' stays.
    assert {task.recipe.optimizer.muon_lr / task.recipe.optimizer.lr for task in trials} == {5.0}
    assert {task.length for task in trials if task.method == "copied"} == {0.5}


def test_first_steps_that_runs_have_in_common_are_runs_from_whose_ends_they_go_on(tasks):
    of_both = [*finals(tasks, 1).values(), *finals(tasks, 4).values()]
    trunks, sharing = tasks.shared(of_both)
    assert [replaced.recipe for replaced in sharing] == [task.recipe for task in of_both]
    by_name = {task.name: task for task in sharing}

    def taken(name: str) -> list[list[int]]:
        found, trunk = [], by_name[name].trunk
        while trunk is not None:
            found.append(steps(trunk))
            trunk = trunk.trunk
        return found

    # The rates of 400 steps are those of 1,600 up to the first of the fall, which begins after 300.
    assert taken("scratch-seed1") == taken("scratch-x4-seed1") == [[301]]
    assert taken("random-at0.5-seed1") == [[200]]
    # Both lengths have the growth, and steps after it, in common; before it they are a layer like all others.
    both = taken("copied-x4-at0.5-seed1")
    assert taken("copied-x4-at0.8-seed1") == both
    assert both[0][0] == 800 and len(both[0]) == 2
    assert both[1] == [800] and both[-2:] == [[301], [200]]
    assert taken("one-seed1")[-2:] == [[301], [200]]
    assert [sum(steps(trunk)) for trunk in trunks] == sorted(sum(steps(trunk)) for trunk in trunks)
    for task in [*sharing, *trunks]:
        if task.trunk is not None:
            courses = [planned(one.recipe, DS_CONFIG) for one in (task.trunk, task)]
            assert common_steps(*courses)[0] == sum(steps(task.trunk))
    assert all(sum(steps(task)) - sum(steps(task.trunk)) > 0 for task in sharing if task.trunk)
    depths = [(sum(steps(trunk)), sum(steps(trunk.trunk))) for trunk in trunks if trunk.trunk is not None]
    assert all(deep - shallow >= 50 for deep, shallow in depths)


def test_runs_of_other_seeds_or_rates_share_nothing(tasks):
    suite = tasks._suite
    scratch = {"scratch": suite.methods["scratch"]}
    runs = [
        tasks.runs_of(scratch, [seed], {"scratch": rate})["from scratch"][0] for seed, rate in ((1, 1e-3), (2, 1e-3), (3, 2e-3))
    ]
    assert tasks.shared(runs) == ([], runs)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"copied": {"lengths": []}}, r"methods\.copied\.lengths: a method with `lengths` has one stage with `rest: true`"),
        ({"scratch": {"lengths": [1.0]}}, r"methods\.scratch\.lengths: a method with `lengths` has one stage"),
        ({"one": {"horizons": [2]}}, r"methods\.one\.horizons: some of the suite's are expected, 1, 4"),
        ({"random": {"rates": [1e-3]}}, r"methods\.random\.rates: with `sweep: each` a method may have 2 own rates"),
        ({"steps": None}, r"a `share` is one of the suite's `steps`"),
        ({"saved_at": "crossing"}, r"lengths: is of suites with `saved_at: end`|source_size: is of suites"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, changed, said):
    with pytest.raises(UserError, match=said):
        load_suite(suite_file(tmp_path, **changed))


def test_a_length_that_the_other_stages_exceed_is_refused(tmp_path):
    suite = load_suite(suite_file(tmp_path, copied={"lengths": [0.01]}))
    with pytest.raises(UserError, match=r"methods\.copied\.lengths: 0\.01 at the horizon 1: the other stages come to"):
        Tasks(suite, tmp_path, None, DS_CONFIG).runs_of(suite.methods, [1], {"scratch": 1e-3, "copied": 1e-3})
