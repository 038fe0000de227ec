import re
from pathlib import Path

import pytest

from pipeline.common.errors import UserError
from pipeline.families import ActiveLayers, scratch_config, target_config
from pipeline.flops.counts import ForwardFlops
from pipeline.recipe import load_recipe
from pipeline.training.plan.training_plan import DataMix, expected_flops, plan_training

RECIPES = Path(__file__).parents[3] / "launch" / "recipes"


def plan_of(name: str, *overrides: str, windows: int = 1000, ranks: int = 1):
    recipe = load_recipe(RECIPES / f"{name}.yaml", list(overrides))
    phases = recipe.phases
    configs = {0: scratch_config(recipe.source.model, 4096, 0, 512)}
    for phase in phases[1:]:
        configs[phase.number] = target_config(configs[phase.number - 1], phase.target)
    batch = {"train_batch_size": recipe.train_batch_size, "train_micro_batch_size_per_gpu": 8}
    return recipe, configs, plan_training(recipe, configs, lambda mix: windows, batch, ranks)


def test_growths_divide_a_run_into_phases():
    recipe, configs, training_plan = plan_of("stackbert")
    assert [(plan.stage.name, plan.phase, plan.begin, plan.end) for plan in training_plan.stages] == [
        ("source", 0, 0, 50),
        ("six", 1, 50, 120),
        ("twelve", 2, 120, 400),
    ]
    assert [configs[number].num_hidden_layers for number in range(3)] == [3, 6, 12]
    assert training_plan.bounds(2) == (120, 400) and training_plan.steps == 400
    assert recipe.phases[2].growth == recipe.growth


def test_lengths_are_what_it_takes_to_reach_them():
    stages = "stages=[{name: e, epochs: 1.5}, {name: t, tokens: 10000}, {name: b, tokens: 10000, train_batch_size: 8}]"
    *_, training_plan = plan_of("quickstart", stages)
    # 1,500 windows in batches of 32; 10,000 tokens in steps of 32 x 128 and of 8 x 128.
    assert [plan.end - plan.begin for plan in training_plan.stages] == [400, 47, 3, 10]


@pytest.mark.parametrize("name", ["quickstart", "bert2bert"])
@pytest.mark.parametrize("per_block", [None, 2])
def test_a_stage_of_flops_ends_with_the_step_that_reaches_them(name, per_block):
    sub = "" if per_block is None else f", submodel_layers: {per_block}"
    recipe, configs, training_plan = plan_of(name, f"stages=[{{name: f, flops: 3e12{sub}}}]")
    plan = training_plan.stages[-1]
    forward = ForwardFlops.of(configs[1])
    spent = [
        expected_flops(recipe, forward, plan, plan.active_layers(step)).model_total for step in range(plan.begin, plan.end)
    ]
    assert sum(spent[:-1]) < 3e12 <= sum(spent)
    assert (len(set(spent)) == 1) == (per_block is None)


def test_a_schedule_spans_a_model_the_run_or_its_stage():
    own = "schedule={name: linear}"
    *_, by_model = plan_of("stackbert", own)
    *_, by_run = plan_of("stackbert", "schedule={name: linear, span: run}")
    source, six, twelve = by_model.stages
    assert [by_model.rate_factor(plan, plan.begin) for plan in (source, six)] == [1, 1]
    # `twelve` is warmed up to over 20 steps.
    assert by_model.rate_factor(twelve, twelve.begin + 9) == pytest.approx((1 - 9 / 280) * 10 / 20)
    assert by_run.rate_factor(six, 50) == pytest.approx(1 - 50 / 400)
    stages = "stages=[{name: a, steps: 10, schedule: {name: constant}}, {name: b, steps: 10}]"
    *_, mixed = plan_of("quickstart", stages, own)
    a, b = mixed.stages[1:]
    assert mixed.rate_factor(a, a.end - 1) == 1
    assert mixed.rate_factor(b, b.begin) == pytest.approx(1 - 10 / 20)


def overlong_warmups(*overrides: str, name: str = "quickstart") -> list[tuple[str, ...]]:
    """Key, warmup, steps and where they are, of each warmup that is too long."""
    sentence = r"(\S+): (\S+) steps are more than the (\S+) that they belong to, (\S+ to \S+) of the run;"
    *_, training_plan = plan_of(name, *overrides)
    return [re.match(sentence, warning).groups() for warning in training_plan.long_warmups()]


def test_a_warmup_that_is_longer_than_its_span_is_told():
    key, own = "schedule.warmup_steps", "stages.b.schedule"
    stages = "stages=[{name: a, steps: 20}, {name: b, steps: 20, %s}]"
    assert overlong_warmups(f"{key}=220") == [], "as long as the span"
    # 400 steps of the source; 60 and 160 of the model that it becomes.
    assert overlong_warmups(f"{key}=1221") == [(key, "1,221", "400", "1 to 400"), (key, "1,221", "220", "401 to 620")]
    assert overlong_warmups(f"{key}=621", "schedule.span=run") == [(key, "621", "620", "1 to 620")]
    assert overlong_warmups(stages % "warmup_steps: 21") == [("stages.b.warmup_steps", "21", "20", "421 to 440")]
    schedule = "schedule: {warmup_steps: 21}"
    assert overlong_warmups(stages % schedule) == [(f"{own}.warmup_steps", "21", "20", "421 to 440")]


def test_what_a_step_trains_is_a_function_of_seed_and_step():
    *_, training_plan = plan_of("quickstart")
    plan = training_plan.stages[1]
    sections = [plan.active_layers(step) for step in range(plan.begin, plan.end)]
    assert {active.depth for active in sections} == {2, 4, 6}
    assert all(active == ActiveLayers.top(active.depth, 2) for active in sections)
    *_, longer = plan_of("quickstart", "source.steps=401")
    assert [longer.stages[1].active_layers(step + 1) for step in range(plan.begin, plan.end)] == sections


def test_stages_of_the_same_text_and_length_share_a_stream():
    stages = "stages=[{name: a, steps: 1}, {name: b, steps: 1, sequence_length: 64}, {name: c, steps: 1}]"
    *_, training_plan = plan_of("quickstart", stages)
    source, a, b, c = (plan.mix for plan in training_plan.stages)
    assert source == a == c != b
    assert DataMix(64, (("wiki", 1.0),)).name == "64 wiki=1"


def test_a_stages_batch_follows_from_the_ranks_or_is_refused():
    stages = "stages=[{name: a, steps: 1, train_batch_size: 24, train_micro_batch_size_per_gpu: 5}]"
    *_, training_plan = plan_of("quickstart", stages, ranks=2)
    assert (training_plan.stages[-1].micro_batch_size, training_plan.stages[-1].accumulation) == (4, 3)
    # The source says nothing itself: the run's micro-batch of 8, and not the recipe's 16.
    assert (training_plan.stages[0].micro_batch_size, training_plan.stages[0].accumulation) == (8, 2)
    with pytest.raises(UserError, match=r"stages\.a: train_batch_size 24 does not divide over 16 ranks"):
        plan_of("quickstart", stages, ranks=16)
