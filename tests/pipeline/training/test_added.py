"""A rate of its own for what a growth added: each element against an optimizer of torch's that has it alone, at that rate."""

import pytest
import torch

from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.recipe import GrowthConfig
from pipeline.recipe.growth import AddedConfig
from pipeline.training import adamw as adamw_module
from pipeline.training.muon import FreezableMuon, Matrix
from tests.pipeline.training.optimizers import (
    CLOSE,
    COMPILER,
    GRADIENTS,
    SIZE,
    WEIGHTS,
    adamw_of,
    lion_of,
    muon_of,
    plain_lion,
    state_at,
    stepped,
    torch_adamw,
    weights,
)

ADDED = AddedConfig(warmup_steps=4, lr_ratio=2.0, decay_steps=5)
SHARES = [0.5, 1.0, 1.5, 2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 1.0, 1.0, 1.0]
"""Of the common rate, in the steps after growth."""
OLD, HALF, NEW = slice(0, 20), slice(20, 40), slice(40, 60)
DONE = 3
"""Steps that half-new elements have behind them."""
LEFT_AT_FIRST = torch.cat(
    [torch.zeros(20), torch.full((20,), float(ADDED.steps - DONE)), torch.full((20,), float(ADDED.steps))]
)
OF = {"old": (OLD, [1.0] * 12), "half": (HALF, SHARES[DONE:] + [1.0] * DONE), "new": (NEW, SHARES)}


def steps_taken(optimizer: torch.optim.Optimizer, *parameters: torch.Tensor) -> torch.Tensor:
    optimizer.added = ADDED
    moved = stepped(optimizer, *parameters)
    # Nothing is kept of it where every element moves by the common rate.
    assert ADDED_STEPS_LEFT not in optimizer.state[parameters[0]]
    return moved.flatten()


@pytest.mark.slow
@pytest.mark.parametrize(("age", "compiled"), [(0.0, False), (1000.0, False), pytest.param(1000.0, True, marks=COMPILER)])
def test_adamw_moves_each_element_by_its_share_of_the_rate_whatever_its_moments_age(age, compiled, monkeypatch):
    monkeypatch.setattr(adamw_module, "CHUNK_ELEMENTS", 7)
    # In chunks, as on a CPU, or by one compiled kernel, as on a GPU.
    monkeypatch.setattr(adamw_module, "triton_runs", lambda device: compiled)
    parameter = weights(12, 5)
    state = {ADDED_STEPS_LEFT: LEFT_AT_FIRST.clone().reshape(12, 5)} | state_at(age, slice(None), 12, 5)
    moved = steps_taken(adamw_of(parameter, **state), parameter)
    for elements, shares in OF.values():
        torch.testing.assert_close(moved[elements], torch_adamw(elements, age, shares), **CLOSE)


def test_lion_moves_each_element_by_its_share_of_the_rate():
    parameter, plain = weights(), weights()
    lion = lion_of(parameter, plain)
    lion.state[parameter] = {ADDED_STEPS_LEFT: LEFT_AT_FIRST.clone()}
    moved = steps_taken(lion, parameter, plain)
    for elements, shares in OF.values():
        torch.testing.assert_close(moved[elements], plain_lion(elements, shares), **CLOSE)
    torch.testing.assert_close(plain.detach(), plain_lion(), **CLOSE)


def test_muon_orthogonalizes_a_matrix_whole_and_moves_each_element_by_its_share_of_the_rate():
    parameter = weights(12, 5)
    muon = muon_of([parameter], {"w": Matrix((12, 5), 0)}, torch.bfloat16)
    muon.state[parameter] = {ADDED_STEPS_LEFT: LEFT_AT_FIRST.clone().reshape(12, 5)}
    moved = steps_taken(muon, parameter)
    # The updates of torch's own, which do not depend on the weights.
    summed = torch.zeros(12, 5).requires_grad_()
    theirs = torch.optim.Muon([summed], lr=1.0, weight_decay=0.0, momentum=0.95)
    updates = []
    for gradient in GRADIENTS:
        before = summed.detach().clone()
        stepped(theirs, summed, gradients=[gradient])
        updates.append((before - summed.detach()).flatten())
    for elements, shares in OF.values():
        expected = WEIGHTS[elements].clone()
        for update, share in zip(updates, shares, strict=True):
            expected = expected * (1 - share * 0.02 * 0.1) - share * 0.02 * update[elements]
        # Both iterate in bf16, ours in another order: 2^-8 of a dozen steps of up to 0.04; a share that is off by one step
        # is off by 5e-3 or more.
        torch.testing.assert_close(moved[elements], expected, rtol=0, atol=3e-3)


def test_what_an_earlier_growth_left_more_steps_to_begins_the_last_ones_warmup():
    parameter = weights()
    left = torch.where(torch.arange(SIZE) < 20, 500.0, float(ADDED.steps))
    moved = steps_taken(adamw_of(parameter, **{ADDED_STEPS_LEFT: left}), parameter)
    for elements, shares in ((OLD, [0.0, *SHARES[:-1]]), (NEW, SHARES)):
        torch.testing.assert_close(moved[elements], torch_adamw(elements, 0.0, shares), **CLOSE)


def test_a_parameter_that_is_new_as_a_whole_counts_once_a_step_and_not_where_it_stands_still_or_a_step_is_refused():
    parameter = weights()
    adamw = adamw_of(parameter, **{ADDED_STEPS_LEFT: torch.tensor(float(ADDED.steps))})
    adamw.added = ADDED
    adamw.param_groups[0]["frozen"] = True
    stepped(adamw, parameter, gradients=GRADIENTS[:1])
    adamw.param_groups[0]["frozen"] = False
    adamw.refuses = lambda: torch.tensor(1.0)
    stepped(adamw, parameter, gradients=GRADIENTS[:1])
    assert torch.equal(parameter, WEIGHTS) and adamw.state[parameter][ADDED_STEPS_LEFT] == ADDED.steps
    adamw.refuses = None
    torch.testing.assert_close(steps_taken(adamw, parameter), torch_adamw(slice(None), 0.0, SHARES), **CLOSE)


def half_new_matrix() -> tuple[FreezableMuon, torch.Tensor]:
    """Return a Muon over two experts in one parameter, all of it new, and the parameter."""
    parameter = weights(2, 6, 5)
    rows = {name: {"frozen": False, "lr": 0.02, "weight_decay": 0.1} for name in ("first", "other")}
    muon = muon_of([parameter], {name: Matrix((6, 5), 0) for name in rows}, block="first", rows=rows)
    first = torch.arange(SIZE) < 30
    muon.row_groups = {parameter: {"first": first, "other": ~first}}
    muon.added = ADDED
    muon.state[parameter] = {ADDED_STEPS_LEFT: torch.tensor(float(ADDED.steps))}
    return muon, parameter


def test_experts_that_stand_still_count_no_steps_and_others_of_their_parameter_do():
    muon, parameter = half_new_matrix()
    rows = muon.param_groups[0]["rows"]
    for number, gradient in enumerate(GRADIENTS[:6]):
        rows["first"]["frozen"] = number < 2
        parameter.grad = gradient.clone().reshape(2, 6, 5)
        if number < 2:
            parameter.grad[0] = 0
        muon.step()
    left = muon.state[parameter][ADDED_STEPS_LEFT].view(2, 30).unique(dim=1).flatten()
    assert left.tolist() == [ADDED.steps - 4, ADDED.steps - 6]
    alone, expected = half_new_matrix()
    stepped(alone, expected, gradients=GRADIENTS[2:6])
    # Rows that stood still are where they would be had the run started without these steps.
    torch.testing.assert_close(parameter[0], expected[0], **CLOSE)


def test_the_device_is_asked_whether_steps_are_left_once_when_there_may_be_none():
    parameter = weights()
    lion = lion_of(parameter)
    lion.added = ADDED
    asked, taken = [], []

    class Watched(torch.Tensor):
        def max(self):
            asked.append(len(taken))
            return torch.Tensor.max(self.as_subclass(torch.Tensor))

    lion.state[parameter] = {ADDED_STEPS_LEFT: LEFT_AT_FIRST.clone().as_subclass(Watched)}
    for gradient in (*GRADIENTS, *GRADIENTS):
        stepped(lion, parameter, gradients=[gradient])
        taken.append(gradient)
    assert asked == [0, ADDED.steps]


@pytest.mark.parametrize("content", [{"lr_ratio": 2.0}, {"decay_steps": 10}, {"lr_ratio": 1.0, "decay_steps": 10}])
def test_a_ratio_without_a_way_to_the_common_rate_is_refused(content):
    with pytest.raises(ValueError, match="`lr_ratio` goes with `decay_steps`"):
        GrowthConfig(added=content)
