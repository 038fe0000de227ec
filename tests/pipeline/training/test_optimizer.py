"""AdamW whose elements have ages of their own, against torch's AdamW run on each class of elements alone."""

import pytest
import torch

from pipeline.training.optimizer import FreezableAdamW

OPTIONS = {"lr": 3e-3, "betas": (0.9, 0.98), "eps": 1e-3, "weight_decay": 0.1}
SIZE, STEPS = 60, 12
GENERATOR = torch.Generator().manual_seed(2)
WEIGHTS, *GRADIENTS = torch.randn(1 + STEPS, SIZE, generator=GENERATOR)
MOMENTS = torch.randn(SIZE, generator=GENERATOR), torch.rand(SIZE, generator=GENERATOR)


def torch_adamw(elements: slice, age: float, **changes) -> torch.Tensor:
    """Step these elements with torch's AdamW, from restored moments where they have an age."""
    parameter = WEIGHTS[elements].clone().requires_grad_()
    adamw = torch.optim.AdamW([parameter], **OPTIONS | changes)
    if age:
        adamw.state[parameter] = {
            "step": torch.tensor(age),
            "exp_avg": MOMENTS[0][elements].clone(),
            "exp_avg_sq": MOMENTS[1][elements].clone(),
        }
    for gradient in GRADIENTS:
        parameter.grad = gradient[elements].clone()
        adamw.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(SIZE,), (12, 5)])
def test_each_element_takes_the_steps_of_its_own_age_rate_and_eps(shape, monkeypatch):
    monkeypatch.setattr("pipeline.training.optimizer.CHUNK_ELEMENTS", 7)
    old, new, factored = slice(0, 20), slice(20, 40), slice(40, 60)
    age = torch.zeros(SIZE)
    age[old] = 1000
    is_old = (age > 0).float()
    rate, eps = torch.ones(SIZE), torch.ones(SIZE)
    rate[factored], eps[factored] = 0.25, 8.0
    parameter = WEIGHTS.clone().reshape(shape).requires_grad_()
    adamw = FreezableAdamW([{"params": [parameter], "frozen": False}], **OPTIONS)
    adamw.state[parameter] = {
        "step": age.clone().reshape(shape),
        "exp_avg": (MOMENTS[0] * is_old).reshape(shape),
        "exp_avg_sq": (MOMENTS[1] * is_old).reshape(shape),
        "lr_factor": rate.reshape(shape),
        "eps_factor": eps.reshape(shape),
    }
    for gradient in GRADIENTS:
        parameter.grad = gradient.clone().reshape(shape)
        adamw.step()
    stepped = parameter.detach().flatten()
    # fp32 rounding over a dozen steps of 3e-3 each.
    close = {"rtol": 1e-6, "atol": 1e-7}
    torch.testing.assert_close(stepped[old], torch_adamw(old, 1000.0), **close)
    torch.testing.assert_close(stepped[new], torch_adamw(new, 0.0), **close)
    # Decay is lr x weight_decay in both: a rate of a times lr with a decay of 1/a.
    changed = {"lr": 0.25 * OPTIONS["lr"], "weight_decay": OPTIONS["weight_decay"] / 0.25, "eps": 8 * OPTIONS["eps"]}
    torch.testing.assert_close(stepped[factored], torch_adamw(factored, 0.0, **changed), **close)
    assert torch.equal(adamw.state[parameter]["step"].flatten(), age + STEPS)


def test_a_scalar_step_with_factors_counts_once_a_step():
    parameter = WEIGHTS.clone().requires_grad_()
    adamw = FreezableAdamW([{"params": [parameter], "frozen": False}], **OPTIONS)
    adamw.state[parameter] = {
        "step": torch.tensor(1000.0),
        "exp_avg": MOMENTS[0].clone(),
        "exp_avg_sq": MOMENTS[1].clone(),
        "lr_factor": torch.tensor(0.25),
    }
    for gradient in GRADIENTS:
        parameter.grad = gradient.clone()
        adamw.step()
    changed = {"lr": 0.25 * OPTIONS["lr"], "weight_decay": OPTIONS["weight_decay"] / 0.25}
    expected = torch_adamw(slice(None), 1000.0, **changed)
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-7)


def test_a_frozen_group_stands_still_and_plain_tensors_take_torchs_own_steps_to_the_bit():
    mixed, plain, frozen = (WEIGHTS.clone().requires_grad_() for _ in range(3))
    adamw = FreezableAdamW(
        [{"params": [mixed, plain], "frozen": False}, {"params": [frozen], "frozen": True}],
        **OPTIONS,
    )
    for parameter in (mixed, frozen):
        adamw.state[parameter] = {
            "step": torch.zeros(SIZE),
            "exp_avg": torch.zeros(SIZE),
            "exp_avg_sq": torch.zeros(SIZE),
        }
    for gradient in GRADIENTS:
        for parameter in (mixed, plain, frozen):
            parameter.grad = gradient.clone()
        adamw.step()
    assert torch.equal(plain, torch_adamw(slice(None), 0.0))
    assert torch.equal(frozen, WEIGHTS) and adamw.state[frozen]["step"].max() == 0
    assert not torch.equal(mixed, WEIGHTS)
