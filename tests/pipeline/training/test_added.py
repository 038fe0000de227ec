"""A rate of its own for what a growth added: each element against an optimizer of torch's that has it alone, at that rate."""

import pytest
import torch

from pipeline.deepspeed.zero_layout import PartitionSlice
from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.recipe import GrowthConfig
from pipeline.recipe.growth import AddedConfig
from pipeline.training import adamw as adamw_module
from pipeline.training.adamw import FreezableAdamW
from pipeline.training.lion import FreezableLion
from pipeline.training.muon import FreezableMuon, Matrix
from tests.pipeline.training.test_optimizer import COMPILER, GRADIENTS, MOMENTS, OPTIONS, SIZE, WEIGHTS

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
# fp32 rounding over a dozen steps of 3e-3 each.
CLOSE = {"rtol": 1e-6, "atol": 1e-7}


def adamw_of_torch(elements: slice, shares: list[float], age: float) -> torch.Tensor:
    parameter = WEIGHTS[elements].clone().requires_grad_()
    adamw = torch.optim.AdamW([parameter], **OPTIONS)
    if age:
        moments = {key: held[elements].clone() for key, held in zip(("exp_avg", "exp_avg_sq"), MOMENTS, strict=True)}
        adamw.state[parameter] = {"step": torch.tensor(age)} | moments
    for gradient, share in zip(GRADIENTS, shares, strict=True):
        adamw.param_groups[0]["lr"] = share * OPTIONS["lr"]
        parameter.grad = gradient[elements].clone()
        adamw.step()
    return parameter.detach()


def steps_taken(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> torch.Tensor:
    for gradient in GRADIENTS:
        parameter.grad = gradient.clone().reshape(parameter.shape)
        optimizer.step()
    # Nothing is kept of it where every element moves by the common rate.
    assert ADDED_STEPS_LEFT not in optimizer.state[parameter]
    return parameter.detach().flatten()


@pytest.mark.slow
@pytest.mark.parametrize(("age", "compiled"), [(0.0, False), (1000.0, False), pytest.param(1000.0, True, marks=COMPILER)])
def test_adamw_moves_each_element_by_its_share_of_the_rate_whatever_its_moments_age(age, compiled, monkeypatch):
    monkeypatch.setattr(adamw_module, "CHUNK_ELEMENTS", 7)
    # In chunks, as on a CPU, or by one compiled kernel, as on a GPU.
    monkeypatch.setattr(adamw_module, "triton_runs", lambda device: compiled)
    parameter = WEIGHTS.clone().reshape(12, 5).requires_grad_()
    adamw = FreezableAdamW([{"params": [parameter], "frozen": False}], **OPTIONS)
    adamw.added = ADDED
    adamw.state[parameter] = {ADDED_STEPS_LEFT: LEFT_AT_FIRST.clone().reshape(12, 5)}
    if age:
        moments = {key: held.clone().reshape(12, 5) for key, held in zip(("exp_avg", "exp_avg_sq"), MOMENTS, strict=True)}
        adamw.state[parameter] |= {"step": torch.tensor(age)} | moments
    moved = steps_taken(adamw, parameter)
    for elements, shares in OF.values():
        torch.testing.assert_close(moved[elements], adamw_of_torch(elements, shares, age), **CLOSE)


def test_lion_moves_each_element_by_its_share_of_the_rate():
    parameter, plain = (WEIGHTS.clone().requires_grad_() for _ in range(2))
    group = {"params": [parameter, plain], "frozen": False, "weight_decay": 0.1}
    lion = FreezableLion([group], lr=1e-2, betas=(0.9, 0.98))
    lion.added = ADDED
    lion.state[parameter] = {ADDED_STEPS_LEFT: LEFT_AT_FIRST.clone()}
    for gradient in GRADIENTS:
        plain.grad = gradient.clone()
        parameter.grad = gradient.clone()
        lion.step()
    for elements, shares in [*OF.values()]:
        expected, momentum = WEIGHTS[elements].clone(), torch.zeros(20)
        for gradient, share in zip(GRADIENTS, shares, strict=True):
            update = torch.sign(0.9 * momentum + 0.1 * gradient[elements])
            expected -= share * 1e-2 * (update + 0.1 * expected)
            momentum = 0.98 * momentum + 0.02 * gradient[elements]
        torch.testing.assert_close(parameter.detach()[elements], expected, **CLOSE)
        if elements == OLD:
            torch.testing.assert_close(plain.detach()[elements], expected, **CLOSE)
    assert ADDED_STEPS_LEFT not in lion.state[parameter]


def test_muon_orthogonalizes_a_matrix_whole_and_moves_each_element_by_its_share_of_the_rate():
    parameter = WEIGHTS.clone().reshape(12, 5).requires_grad_()
    group = {"params": [parameter], "frozen": False, "muon": True, "momentum": 0.95, "weight_decay": 0.1}
    muon = FreezableMuon([group], {"w": Matrix((12, 5), 0)}, torch.bfloat16, **OPTIONS | {"lr": 0.02})
    muon.locate([(parameter, [PartitionSlice("w", 0, SIZE, 0)])])
    muon.added = ADDED
    muon.state[parameter] = {ADDED_STEPS_LEFT: LEFT_AT_FIRST.clone().reshape(12, 5)}
    moved = steps_taken(muon, parameter)
    # The updates of torch's own, which do not depend on the weights.
    summed = torch.zeros(12, 5).requires_grad_()
    theirs = torch.optim.Muon([summed], lr=1.0, weight_decay=0.0, momentum=0.95)
    updates = []
    for gradient in GRADIENTS:
        before = summed.detach().clone()
        summed.grad = gradient.clone().reshape(12, 5)
        theirs.step()
        updates.append((before - summed.detach()).flatten())
    for elements, shares in OF.values():
        expected = WEIGHTS[elements].clone()
        for update, share in zip(updates, shares, strict=True):
            expected = expected * (1 - share * 0.02 * 0.1) - share * 0.02 * update[elements]
        # Both iterate in bf16, ours in another order: 2^-8 of a dozen steps of up to 0.04; a share that is off by one step
        # is off by 5e-3 or more.
        torch.testing.assert_close(moved[elements], expected, rtol=0, atol=3e-3)


def test_what_an_earlier_growth_left_more_steps_to_begins_the_last_ones_warmup():
    parameter = WEIGHTS.clone().requires_grad_()
    adamw = FreezableAdamW([{"params": [parameter], "frozen": False}], **OPTIONS)
    adamw.added = ADDED
    adamw.state[parameter] = {ADDED_STEPS_LEFT: torch.where(torch.arange(SIZE) < 20, 500.0, float(ADDED.steps))}
    moved = steps_taken(adamw, parameter)
    for elements, shares in ((OLD, [0.0, *SHARES[:-1]]), (NEW, SHARES)):
        torch.testing.assert_close(moved[elements], adamw_of_torch(elements, shares, 0.0), **CLOSE)


def test_a_parameter_that_is_new_as_a_whole_counts_once_a_step_and_not_where_it_stands_still_or_a_step_is_refused():
    parameter = WEIGHTS.clone().requires_grad_()
    group = {"params": [parameter], "frozen": True}
    adamw = FreezableAdamW([group], **OPTIONS)
    adamw.added = ADDED
    adamw.state[parameter] = {ADDED_STEPS_LEFT: torch.tensor(float(ADDED.steps))}
    parameter.grad = GRADIENTS[0].clone()
    adamw.step()
    adamw.param_groups[0]["frozen"] = False
    adamw.refuses = lambda: torch.tensor(1.0)
    adamw.step()
    assert torch.equal(parameter, WEIGHTS) and adamw.state[parameter][ADDED_STEPS_LEFT] == ADDED.steps
    adamw.refuses = None
    torch.testing.assert_close(steps_taken(adamw, parameter), adamw_of_torch(slice(None), SHARES, 0.0), **CLOSE)


def half_new_matrix() -> tuple[FreezableMuon, torch.Tensor]:
    """Return a Muon over two experts in one parameter, all of it new, and the parameter."""
    parameter = WEIGHTS.clone().reshape(2, 6, 5).requires_grad_()
    rows = {name: {"frozen": False, "lr": 0.02, "weight_decay": 0.1} for name in ("first", "other")}
    group = {"params": [parameter], "block": "first", "frozen": False, "muon": True, "momentum": 0.95, "weight_decay": 0.1}
    matrices = {name: Matrix((6, 5), 0) for name in rows}
    muon = FreezableMuon([group | {"rows": rows}], matrices, torch.float32, **OPTIONS | {"lr": 0.02})
    muon.locate([(parameter, [PartitionSlice(name, 0, 30, 30 * number) for number, name in enumerate(rows)])])
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
    assert muon.state[parameter][ADDED_STEPS_LEFT].view(2, 30).unique(dim=1).flatten().tolist() == [
        ADDED.steps - 4,
        ADDED.steps - 6,
    ]
    alone, expected = half_new_matrix()
    for gradient in GRADIENTS[2:6]:
        expected.grad = gradient.clone().reshape(2, 6, 5)
        alone.step()
    # Rows that stood still are where they would be had the run begun without these steps.
    torch.testing.assert_close(parameter[0], expected[0], **CLOSE)


def test_the_device_is_asked_whether_steps_are_left_once_when_there_may_be_none():
    parameter = WEIGHTS.clone().requires_grad_()
    lion = FreezableLion([{"params": [parameter], "frozen": False, "weight_decay": 0.1}], lr=1e-2, betas=(0.9, 0.98))
    lion.added = ADDED
    asked, taken = [], []

    class Watched(torch.Tensor):
        def max(self):
            asked.append(len(taken))
            return torch.Tensor.max(self.as_subclass(torch.Tensor))

    lion.state[parameter] = {ADDED_STEPS_LEFT: LEFT_AT_FIRST.clone().as_subclass(Watched)}
    for gradient in (*GRADIENTS, *GRADIENTS):
        parameter.grad = gradient.clone()
        lion.step()
        taken.append(gradient)
    assert asked == [0, ADDED.steps]


@pytest.mark.parametrize("content", [{"lr_ratio": 2.0}, {"decay_steps": 10}, {"lr_ratio": 1.0, "decay_steps": 10}])
def test_a_ratio_without_a_way_to_the_common_rate_is_refused(content):
    with pytest.raises(ValueError, match="`lr_ratio` goes with `decay_steps`"):
        GrowthConfig(added=content)
