"""Ours over a few drawn weights, and the plain optimizers that they are held against."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.deepspeed.zero_layout import PartitionSlice
from pipeline.growth.huggingface import MappedTensor
from pipeline.training.adamw import FreezableAdamW
from pipeline.training.lion import FreezableLion
from pipeline.training.muon import FreezableMuon, Matrix
from tests.distributed.engines import can_compile

OPTIONS = {"lr": 3e-3, "betas": (0.9, 0.98), "eps": 1e-3, "weight_decay": 0.1}
SIZE, STEPS = 60, 12
GENERATOR = torch.Generator().manual_seed(2)
WEIGHTS, *GRADIENTS = torch.randn(1 + STEPS, SIZE, generator=GENERATOR)
MOMENTS = torch.randn(SIZE, generator=GENERATOR), torch.rand(SIZE, generator=GENERATOR)
CLOSE = {"rtol": 1e-6, "atol": 1e-7}
"""fp32 rounding over a dozen steps of 3e-3 each."""
COMPILER = pytest.mark.skipif(not can_compile(), reason="no compiler here: Debian's packages g++ and python3-dev have it")


def weights(*shape: int) -> torch.Tensor:
    """Return a parameter of the drawn weights."""
    return WEIGHTS.clone().reshape(shape or (SIZE,)).requires_grad_()


def state_at(age: float, elements: slice = slice(None), *shape: int) -> dict[str, torch.Tensor]:
    """Return what AdamW has kept at an age: nothing at the beginning."""
    kept = {key: held[elements].clone() for key, held in zip(("exp_avg", "exp_avg_sq"), MOMENTS, strict=True)}
    if not age:
        return {}
    return {"step": torch.tensor(age)} | {key: held.reshape(shape or held.shape) for key, held in kept.items()}


def adamw_of(*parameters: torch.Tensor, **state: torch.Tensor) -> FreezableAdamW:
    """Return our AdamW over parameters of one group, the first one with a state."""
    adamw = FreezableAdamW([{"params": [*parameters], "frozen": False}], **OPTIONS)
    if state:
        adamw.state[parameters[0]] = state
    return adamw


def lion_of(*parameters: torch.Tensor) -> FreezableLion:
    """Return our Lion over parameters of one group."""
    return FreezableLion([{"params": [*parameters], "frozen": False, "weight_decay": 0.1}], lr=1e-2, betas=(0.9, 0.98))


def muon_of(
    parameters: Sequence[torch.Tensor], matrices: Mapping[str, Matrix], dtype: torch.dtype = torch.float32, **group: object
) -> FreezableMuon:
    """Return our Muon over parameters that hold matrices, one after the other."""
    held = {"params": [*parameters], "frozen": False, "muon": True, "momentum": 0.95, "weight_decay": 0.1} | group
    muon = FreezableMuon([held], matrices, dtype, **OPTIONS | {"lr": 0.02})
    left, located = list(matrices.items()), []
    for parameter in parameters:
        slices, place = [], 0
        while place < parameter.numel():
            name, matrix = left.pop(0)
            slices.append(PartitionSlice(name, 0, matrix.numel, place))
            place += matrix.numel
        located.append((parameter, slices))
    muon.locate(located)
    return muon


def kept_by(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict[str, MappedTensor | float]]:
    """Return an optimizer's state by a model's parameters, as a source has it."""
    return {
        name: {
            key: value.item() if value.dim() == 0 else MappedTensor(value.clone())
            for key, value in optimizer.state[parameter].items()
        }
        for name, parameter in model.named_parameters()
        if optimizer.state[parameter]
    }


def restore(optimizer: torch.optim.Optimizer, model: nn.Module, kept: Mapping[str, Mapping[str, Any]]) -> None:
    """Give an optimizer the state that a source, or what grew from it, has."""
    for name, entry in kept.items():
        parameter = model.get_parameter(name)
        for key, value in entry.items():
            rows = torch.tensor(value) if isinstance(value, float) else value.rows(0, value.shape[0])
            optimizer.state[parameter][key] = rows.to(parameter.dtype if rows.dim() else rows.dtype, copy=True)


def locate_whole(muon: FreezableMuon, model: nn.Module) -> None:
    """Tell Muon that each of its parameters of a model is one whole matrix."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    matrices = [parameter for group in muon.param_groups if group["muon"] for parameter in group["params"]]
    muon.locate([(each, [PartitionSlice(names[each], 0, each.numel(), 0)]) for each in matrices])


def stepped(
    optimizer: torch.optim.Optimizer, *parameters: torch.Tensor, gradients: Sequence[torch.Tensor] = GRADIENTS
) -> torch.Tensor:
    """Step parameters by the same gradients; return what the first one then is."""
    for gradient in gradients:
        for parameter in parameters:
            parameter.grad = gradient.clone().reshape(parameter.shape)
        optimizer.step()
    return parameters[0].detach()


def torch_adamw(elements: slice, age: float, shares: Sequence[float] = (1.0,) * STEPS, **changes: float) -> torch.Tensor:
    """Step these elements by torch's AdamW at shares of its rate, from restored moments where they have an age."""
    parameter = WEIGHTS[elements].clone().requires_grad_()
    adamw = torch.optim.AdamW([parameter], fused=True, **OPTIONS | changes)
    rate = adamw.param_groups[0]["lr"]
    if age:
        adamw.state[parameter] = state_at(age, elements)
    for gradient, share in zip(GRADIENTS, shares, strict=True):
        adamw.param_groups[0]["lr"] = share * rate
        stepped(adamw, parameter, gradients=[gradient[elements]])
    return parameter.detach()


def torch_muon(weight: torch.Tensor, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Step a matrix by torch's Muon."""
    parameter = weight.clone().requires_grad_()
    muon = torch.optim.Muon([parameter], lr=0.02, weight_decay=0.1, momentum=0.95)
    return stepped(muon, parameter, gradients=gradients)


class PlainLion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2, line by line."""

    def __init__(self, groups: list[dict], betas: tuple[float, float] = (0.9, 0.98)) -> None:
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            (weight,), (beta1, beta2) = group["params"], group["betas"]
            if weight.grad is None:
                continue
            m = self.state[weight].get("m", torch.zeros_like(weight))
            # c = b1 m + (1 - b1) g; w = w - lr (sign(c) + decay w); m = b2 m + (1 - b2) g
            c = beta1 * m + (1 - beta1) * weight.grad
            weight -= group["lr"] * (torch.sign(c) + group["weight_decay"] * weight)
            self.state[weight]["m"] = beta2 * m + (1 - beta2) * weight.grad


def plain_lion(elements: slice = slice(None), shares: Sequence[float] = (1.0,) * STEPS) -> torch.Tensor:
    """Step these elements by the plain Lion at shares of its rate."""
    parameter = WEIGHTS[elements].clone().requires_grad_()
    lion = PlainLion([{"params": [parameter], "lr": 1e-2, "weight_decay": 0.1}])
    for gradient, share in zip(GRADIENTS, shares, strict=True):
        lion.param_groups[0]["lr"] = share * 1e-2
        stepped(lion, parameter, gradients=[gradient[elements]])
    return parameter.detach()
