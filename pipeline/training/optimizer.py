"""AdamW that can leave parameter groups out of a step, and the groups: one per block and decay class."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline.families import Family, Sizes
from pipeline.growth.streaming import CHUNK_ELEMENTS
from pipeline.recipe import OptimizerConfig, StageConfig

HEAD = "head"


class FreezableAdamW(torch.optim.AdamW):
    """AdamW whose groups with `frozen` set stand still: weights, moments and step counters.

    `requires_grad = False` alone would not do: a partition without a new gradient still moves by its
    momentum and its decay.

    A grown tensor keeps the source's moments where it has any and starts anew elsewhere, so its state may
    hold element by element `step`, `lr_factor` (of the Adam update, not of the decay) and `eps_factor`.
    Tensors with a plain step count go through torch's own AdamW.
    """

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the groups that are not frozen."""
        groups = self.param_groups
        live = [group for group in groups if not group["frozen"]]
        self.param_groups = [group | {"params": [p for p in group["params"] if not self._is_mixed(p)]} for group in live]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in live:
            for parameter in group["params"]:
                if parameter.grad is not None and self._is_mixed(parameter):
                    self._step_elements(parameter, group)
        return loss

    def _is_mixed(self, parameter: torch.Tensor) -> bool:
        state = self.state.get(parameter, {})
        return "lr_factor" in state or "eps_factor" in state or ("step" in state and state["step"].dim() > 0)

    @torch.no_grad()
    def _step_elements(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        """AdamW (Loshchilov and Hutter 2019, algorithm 2) with the bias corrections at each element's own age."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        state["step"] += 1
        flat = {key: value.view(-1) for key, value in state.items()} | {"grad": parameter.grad.view(-1)}
        weights = parameter.view(-1)
        for begin in range(0, len(weights), CHUNK_ELEMENTS):
            part = {key: value[begin : begin + CHUNK_ELEMENTS] if len(value) > 1 else value for key, value in flat.items()}
            weight, grad = weights[begin : begin + CHUNK_ELEMENTS], part["grad"]
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            part["exp_avg"].lerp_(grad, 1 - beta1)
            part["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            age = part["step"].to(weight.device)
            rate = group["lr"] * part.get("lr_factor", _ONE).to(weight.device) / _bias_correction(beta1, age)
            eps = group["eps"] * part.get("eps_factor", _ONE).to(weight.device)
            weight.sub_(rate * part["exp_avg"] / ((part["exp_avg_sq"] / _bias_correction(beta2, age)).sqrt() + eps))


_ONE = torch.ones(1)


def _bias_correction(beta: float, age: torch.Tensor) -> torch.Tensor:
    """1 - beta^age, to single precision also where beta is close to 1."""
    return -torch.expm1(age * math.log(beta)) if beta else torch.ones_like(age)


def layers_per_block(stages: list[StageConfig], layers: int) -> int:
    """Return the most layers that a parameter group may hold so that each stage's blocks are whole groups."""
    return math.gcd(layers, *(stage.submodel_layers for stage in stages if stage.submodel_layers is not None))


def layer_block(first: int, last: int) -> str:
    """The name of the block of layers [first, last]."""
    return f"layers.{first}-{last}"


def parameters_by_block(
    model: nn.Module, family: Family, sizes: Sizes, per_block: int
) -> dict[tuple[str, bool], list[nn.Parameter]]:
    """Return the model's parameters by (block, whether they decay), in a fixed order."""
    specs = family.specs(sizes)
    blocks: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        spec, layer = specs[name]
        block = family.block(name, spec, sizes)
        if layer is not None:
            first = layer // per_block * per_block
            block = layer_block(first, first + per_block - 1)
        blocks.setdefault((block, spec.decays), []).append(parameter)
    return blocks


def build_optimizer(
    model: nn.Module, blocks: dict[tuple[str, bool], list[nn.Parameter]], config: OptimizerConfig
) -> FreezableAdamW:
    """Return the optimizer over the model's `blocks`, nothing frozen."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [
        {
            "params": parameters,
            # Without ZeRO a checkpoint says by nothing else whose state it keeps.
            "names": [names[parameter] for parameter in parameters],
            "block": block,
            "frozen": False,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (block, decays), parameters in blocks.items()
    ]
    return FreezableAdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
