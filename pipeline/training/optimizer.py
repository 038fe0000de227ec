"""AdamW that can leave parameter groups out of a step, and the groups: one per block and decay class."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline.families import Family, Sizes
from pipeline.recipe import OptimizerConfig, StageConfig

HEAD = "head"


class FreezableAdamW(torch.optim.AdamW):
    """AdamW whose groups with `frozen` set stand still: weights, moments and step counters.

    `requires_grad = False` alone would not do: a partition without a new gradient still moves by its
    momentum and its decay.
    """

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the groups that are not frozen."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["frozen"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups


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


def build_optimizer(blocks: dict[tuple[str, bool], list[nn.Parameter]], config: OptimizerConfig) -> FreezableAdamW:
    """Return the optimizer over `blocks`, nothing frozen."""
    groups = [
        {
            "params": parameters,
            "block": block,
            "frozen": False,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (block, decays), parameters in blocks.items()
    ]
    return FreezableAdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
