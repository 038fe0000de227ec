"""What the guard makes of losses and gradients, and the message of a run that it stops."""

import math
from types import SimpleNamespace

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

from pipeline.recipe import GuardConfig
from pipeline.training.loop.guard import Gradients, Guard, GuardStoppedError, StepOutcome, with_poison

FULL = ("full", None)
TRAINED, SKIPPED, REWIND = StepOutcome.TRAINED, StepOutcome.SKIPPED, StepOutcome.REWIND


def judge(guard: Guard, *losses: float) -> list[StepOutcome]:
    return [guard.observe(FULL, loss, True) for loss in losses]


def test_steps_that_are_no_numbers_are_skipped_and_so_many_in_a_row_go_back():
    guard = Guard(GuardConfig(skipped_steps=3))
    assert judge(guard, 2.0, math.nan, math.inf, 1.9) == [TRAINED, SKIPPED, SKIPPED, TRAINED]
    assert guard.observe(FULL, 1.8, False) is SKIPPED
    assert judge(guard, math.nan) == [SKIPPED]
    assert guard.observe(FULL, 1.8, False) is REWIND
    assert guard.seen == "3 steps in a row without a finite gradient (the last loss was 1.8)"
    assert judge(guard, -math.inf) == [REWIND]


def test_an_overflow_in_fp16_is_the_scales_affair_until_it_is_at_its_least(monkeypatch):
    # Of several ranks one logs it.
    monkeypatch.setattr("deepspeed.runtime.fp16.loss_scaler.dist.get_rank", lambda: 1)
    scaler = DynamicLossScaler(init_scale=4.0, scale_window=9, min_scale=1.0, delayed_shift=1, consecutive_hysteresis=False)
    engine = SimpleNamespace(optimizer=SimpleNamespace(overflow=True, loss_scaler=scaler), fp16_enabled=lambda: True)
    gradients, seen = Gradients(engine), []
    for _ in range(4):
        scaler.update_scale(True)
        seen.append((scaler.loss_scale, gradients.last()[1]))
    assert seen == [(2.0, True), (1.0, False), (1.0, False), (1.0, False)]
    engine.optimizer.overflow = False
    assert gradients.last()[1]


def test_a_spike_is_a_loss_beyond_the_mean_of_a_full_window():
    guard = Guard(GuardConfig(spike=2.0, spike_window=3))
    # Nothing is compared with fewer than three; 9, 2 and 1 have a mean of 4.
    assert judge(guard, 1.0, 9.0, 2.0) == [TRAINED, TRAINED, TRAINED]
    assert judge(guard, 1.0, 8.1) == [TRAINED, REWIND]
    assert guard.seen == "a loss of 8.1 where the 3 before it have a mean of 4"
    # The spike itself is no part of what later losses are compared with.
    assert judge(guard, 8.0, 7.4) == [TRAINED, REWIND]


def test_losses_of_other_stages_and_depths_are_not_compared():
    guard = Guard(GuardConfig(spike=2.0, spike_window=1))
    kinds = [("submodels", 3), ("submodels", 6), ("submodels", 3), FULL, ("submodels", 6)]
    verdicts = [guard.observe(kind, loss, True) for kind, loss in zip(kinds, [1.0, 5.0, 1.5, 9.0, 10.1], strict=True)]
    assert verdicts == [TRAINED, TRAINED, TRAINED, TRAINED, REWIND]


def test_skipped_steps_are_no_part_of_the_window():
    guard = Guard(GuardConfig(spike=2.0, spike_window=2))
    assert judge(guard, 1.0, math.nan, 1.0, math.nan, 2.1) == [TRAINED, SKIPPED, TRAINED, SKIPPED, REWIND]


def test_without_a_bound_nothing_is_a_spike():
    assert judge(Guard(GuardConfig(spike_window=1)), 1.0, 1e30) == [TRAINED, TRAINED]


def test_a_guard_seeded_with_the_recorded_steps_judges_as_the_one_that_saw_them():
    config = GuardConfig(spike=1.5, spike_window=4, skipped_steps=3)
    generator = torch.Generator().manual_seed(7)
    steps = [
        (("s", int(100 * draw) % 2), *((2 * draw, True) if draw > 0.2 else (math.nan, False) if draw > 0.1 else (draw, False)))
        for draw in torch.rand(300, generator=generator).tolist()
    ]
    whole = Guard(config)
    verdicts = [whole.observe(*step) for step in steps]
    assert {*verdicts} == {*StepOutcome}
    for cut in range(0, 300, 7):
        recorded = [(kind, None if math.isnan(loss) else loss, finite) for kind, loss, finite in steps[:cut]]
        resumed = Guard.seeded(config, recorded)
        assert [resumed.observe(*step) for step in steps[cut:]] == verdicts[cut:]


def test_a_run_that_is_stopped_says_what_was_seen():
    guard = Guard(GuardConfig(skipped_steps=1))
    guard.observe(FULL, math.inf, False)
    said = str(GuardStoppedError(guard.seen, 70, 3))
    assert "step 70: 1 step without a finite loss (the last loss was inf), after going back 3 times" in said
    assert "\n" not in said


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_makes_every_gradient_nan(bad):
    weights = torch.ones(3, requires_grad=True)
    # An infinite constant leaves the gradient as it is.
    (weights.sum() + bad).backward()
    assert weights.grad.isfinite().all()
    with_poison(weights.sum() + bad).backward()
    assert weights.grad.isnan().all()
    weights.grad = None
    with_poison(2 * weights.sum()).backward()
    assert torch.equal(weights.grad, torch.full((3,), 2.0))
