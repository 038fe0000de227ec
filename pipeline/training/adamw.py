"""AdamW that can leave parameter groups out of a step, and whose elements may have ages and rates of their own."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from pipeline.deepspeed.kernels import CPUAdam
from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.growth.streaming import CHUNK_ELEMENTS
from pipeline.training.freezing import Freezable
from pipeline.training.plan.schedule import added_share
from pipeline.training.toolchain import triton_runs


class FreezableAdamW(Freezable, torch.optim.AdamW):
    """torch's AdamW, fused on every device (on a CPU 7 times as fast as its loop over tensors), with frozen groups.

    A grown tensor keeps the source's moments where it has any and starts empty elsewhere, so its state may
    hold element by element `step`, `lr_factor` (of the Adam update, not of the decay), `eps_factor`, and
    `added_steps_left` (by which the rate, and so the decay, of what a growth added depends).
    Tensors with a plain step count go through torch's own AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, fused=True, **options)

    moments = ("exp_avg", "exp_avg_sq")
    counts_steps = True
    found_inf: torch.Tensor | None = None
    """1 on the device where nothing is to move; torch's fused AdamW reads it there, so that the host need not wait."""

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the groups that are not frozen."""
        refused = self.refuses is not None and self.refuses()
        if refused is True:
            return
        self.found_inf = refused if isinstance(refused, torch.Tensor) else None
        self.step_groups(self.unfrozen())

    def step_groups(self, groups: list[dict[str, Any]]) -> None:
        """Update these groups by AdamW."""
        self.forget_added(groups)
        with self.with_separate_rows(groups) as stepped:
            self._step_plain([group | {"params": [p for p in group["params"] if not self._is_mixed(p)]} for group in stepped])
            mixed = [
                (p, p.grad, group) for group in stepped for p in group["params"] if p.grad is not None and self._is_mixed(p)
            ]
            # Several kernels would take half as long again with a condition on the device: the host reads it, once.
            on_host = any(not triton_runs(parameter.device) for parameter, _, _ in mixed)
            if not (on_host and self.found_inf is not None and self.found_inf.item()):
                for parameter, gradient, group in mixed:
                    self._step_elements(parameter, gradient, group)

    def _step_plain(self, groups: list[dict[str, Any]]) -> None:
        held = self.param_groups
        self.param_groups = groups
        try:
            super().step()
        finally:
            self.param_groups = held

    def _is_mixed(self, parameter: torch.Tensor) -> bool:
        state = self.state.get(parameter, {})
        return not state.keys().isdisjoint(("lr_factor", "eps_factor", ADDED_STEPS_LEFT)) or (
            "step" in state and state["step"].dim() > 0
        )

    @torch.no_grad()
    def _step_elements(self, parameter: nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        """Step a tensor whose elements have ages, or rates, of their own: by one kernel where it can be compiled."""
        state = self.state_of(parameter)
        for key, value in state.items():
            if value.device != parameter.device:
                state[key] = value.to(parameter.device)
        moved = 1 if self.found_inf is None else 1 - self.found_inf
        state["step"] += moved
        self.count_added(parameter, moved)
        flat = {key: value.view(-1) for key, value in state.items()} | {"grad": gradient.view(-1)}
        weights = parameter.view(-1)
        # As tensors on the host, which kernels take as arguments: by a number that changes it would be compiled at each step.
        numbers: dict[str, Any] = {"lr": torch.tensor(group["lr"]), "decay": torch.tensor(group["lr"] * group["weight_decay"])}
        numbers |= {"betas": group["betas"], "eps": group["eps"], "added": self.added_numbers}
        if triton_runs(weights.device):
            _compiled_adamw()(self.found_inf, weights, **flat, **numbers)
            return
        for begin in range(0, len(weights), CHUNK_ELEMENTS):
            chunk = slice(begin, begin + CHUNK_ELEMENTS)
            some: dict[str, Any] = {key: value[chunk] if len(value) > 1 else value for key, value in flat.items()}
            _adamw(weights[chunk], **some, **numbers)


def _adamw(
    weight: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    step: torch.Tensor,
    lr_factor: torch.Tensor | None = None,
    eps_factor: torch.Tensor | None = None,
    added_steps_left: torch.Tensor | None = None,
    *,
    lr: torch.Tensor,
    decay: torch.Tensor,
    betas: tuple[float, float],
    eps: float,
    added: tuple[float, float, float],
) -> None:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) with the bias corrections at each element's own age, in place.

    All are flat; `step`, the factors and `added_steps_left` may hold one number for all elements. `decay` is the share of a
    weight that is taken away.
    """
    beta1, beta2 = betas
    if added_steps_left is not None:
        share = added_share(added_steps_left, *added)
        lr, decay = lr * share, decay * share
    weight.mul_(1 - decay)
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    rate = (lr if lr_factor is None else lr * lr_factor) / _bias_correction(beta1, step)
    least = eps if eps_factor is None else eps * eps_factor
    weight.sub_(rate * exp_avg / ((exp_avg_sq / _bias_correction(beta2, step)).sqrt() + least))


def _adamw_unless(
    refused: torch.Tensor | None,
    weight: torch.Tensor,
    *,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    **others: Any,
) -> None:
    """The same, but that nothing moves where `refused` is 1, on the device."""
    if refused is None:
        _adamw(weight, grad, exp_avg, exp_avg_sq, **others)
        return
    held = weight, exp_avg, exp_avg_sq
    moved = [tensor.clone() for tensor in held]
    _adamw(moved[0], grad, *moved[1:], **others)
    for old, new in zip(held, moved, strict=True):
        old.copy_(torch.where(refused > 0, old, new))


@cache
def _compiled_adamw() -> Callable[..., None]:
    """The same as one kernel, for tensors of any length."""
    return torch.compile(_adamw_unless, dynamic=True, fullgraph=True)


def _bias_correction(beta: float, age: torch.Tensor) -> torch.Tensor:
    """1 - beta^age, to single precision also where beta is close to 1."""
    return -torch.expm1(age * math.log(beta)) if beta else torch.ones_like(age)


class OffloadedAdamW(FreezableAdamW):
    """The same with DeepSpeed's CPU Adam for tensors with a plain step count, all of them in the host's memory.

    Raises RuntimeError where its kernel is not built and cannot be.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        self._kernel = CPUAdam()

    @torch.no_grad()
    def _step_plain(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            (beta1, beta2), rate = group["betas"], group["lr"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state_of(parameter)
                state["step"] += 1
                step = int(state["step"])
                # The kernel's own bias correction is a running product, so that a resumed run would differ in its last bits:
                # what it divides by goes into rate and eps instead, and out of the decay again.
                root = math.sqrt(1 - beta2**step)
                corrected = rate * root / (1 - beta1**step)
                decayed = group["weight_decay"] * rate / corrected if rate else 0.0
                tensors = parameter.detach(), parameter.grad, state["exp_avg"], state["exp_avg_sq"]
                self._kernel.update(step, group["betas"], corrected, group["eps"] * root, decayed, *tensors)
