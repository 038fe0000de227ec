"""Schedules against transformers' own, at every step."""

import math

import pytest
import torch
from transformers import optimization

from pipeline.recipe import ScheduleConfig
from pipeline.training.plan.schedule import rate_factor, stage_warmup

WARMUP, STEPS = 10, 100


def theirs(name: str, **options) -> list[float]:
    """Each step's rate by transformers, whose warmup begins with a step at rate 0."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = getattr(optimization, f"get_{name}")(optimizer, num_warmup_steps=WARMUP, **options)
    rates = []
    for _ in range(STEPS + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


def ours(**options) -> list[float]:
    schedule = ScheduleConfig(warmup_steps=WARMUP, **options)
    return [rate_factor(schedule, step, STEPS) for step in range(STEPS)]


@pytest.mark.parametrize(
    ("options", "name", "their_options"),
    [
        ({"name": "linear"}, "linear_schedule_with_warmup", {"num_training_steps": STEPS}),
        ({"name": "cosine"}, "cosine_schedule_with_warmup", {"num_training_steps": STEPS}),
        (
            {"name": "cosine", "final_ratio": 0.1},
            "cosine_with_min_lr_schedule_with_warmup",
            {"num_training_steps": STEPS, "min_lr_rate": 0.1},
        ),
        ({"name": "constant"}, "constant_schedule_with_warmup", {}),
        *(
            (
                {"name": "wsd", "decay": decay, "decay_ratio": 0.2, "final_ratio": final},
                "wsd_schedule",
                {"num_training_steps": STEPS, "num_decay_steps": 20, "decay_type": their_decay, "min_lr_ratio": final},
            )
            for decay, their_decay in (("linear", "linear"), ("cosine", "cosine"), ("sqrt", "1-sqrt"))
            for final in (0.0, 0.1)
        ),
    ],
)
def test_rates_are_those_of_transformers(options, name, their_options):
    expected = theirs(name, **their_options)
    # Ours begins the warmup with a step that counts: at step i it is where theirs is at i + 1. Their wsd climbs from
    # its final rate, ours from 0 as all others do.
    if not (options["name"] == "wsd" and options["final_ratio"]):
        assert ours(**options)[:WARMUP] == pytest.approx(expected[1 : WARMUP + 1])
    assert ours(**options)[WARMUP:] == pytest.approx(expected[WARMUP:STEPS])


def test_inverse_sqrt_is_that_of_transformers_one_step_on():
    expected = theirs("inverse_sqrt_schedule")
    assert ours(name="inverse_sqrt") == pytest.approx(expected[1:])
    # Vaswani et al. 2017, equation 3, up to its constant.
    assert ours(name="inverse_sqrt")[39] == pytest.approx(math.sqrt(WARMUP / 40))


def test_rates_by_hand():
    linear = ScheduleConfig(name="linear", warmup_steps=4, final_ratio=0.2)
    assert [rate_factor(linear, step, 12) for step in (0, 3, 4, 8, 12)] == pytest.approx([0.25, 1, 1, 0.6, 0.2])
    wsd = ScheduleConfig(name="wsd", decay="sqrt", decay_ratio=0.5)
    assert [rate_factor(wsd, step, 8) for step in (0, 3, 4, 5, 8)] == pytest.approx([1, 1, 1, 0.5, 0])


def test_a_schedule_ends_at_its_final_ratio_and_stays_there():
    for name in ("linear", "cosine", "wsd"):
        schedule = ScheduleConfig(name=name, final_ratio=0.25)
        assert [rate_factor(schedule, step, 10) for step in (10, 11, 30)] == pytest.approx([0.25] * 3)


def test_a_decay_that_the_warmup_reaches_into_begins_where_the_warmup_ends():
    schedule = ScheduleConfig(name="wsd", warmup_steps=6, decay_ratio=0.8)
    assert [rate_factor(schedule, step, 10) for step in (5, 6, 8)] == pytest.approx([1, 1, 0.5])


def test_a_stage_climbs_to_the_schedules_rate():
    assert [stage_warmup(step, 4) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert stage_warmup(0, 0) == 1
