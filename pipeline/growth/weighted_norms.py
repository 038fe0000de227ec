"""Norm statistics weighted by 1/C: exact copies at any ratio, and a way back to stock norms.

A stock norm takes every channel of a grown residual stream alike, and so counts a source channel as
often as it was copied. Weighted by 1 / (C D_s) each source channel counts once. Over the first steps of training
the weights go over into 1 / D_t, after which the model is stock again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline.families.graph import Model
from pipeline.families.primitives import Norm
from pipeline.growth.port_maps import PortMap


class WeightedNorms:
    """The norms over a model's residual stream, made to weigh their channels."""

    def __init__(self, model: nn.Module, graph: Model, residual: PortMap, steps: int) -> None:
        """Take over the norms of `model`; they are stock again from `steps` on."""
        self._begin = 1.0 / (residual.counts * residual.source_size)
        self.steps = steps
        self._share = 0.0
        self._weights: dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}
        """Of each device and type that a norm has computed in: `_begin` there, and the weights that hold now."""
        self._modules: list[nn.Module] = []
        for norm in graph.stream_norms():
            module = model.get_submodule(norm.gain.rsplit(".", 1)[0])
            module.forward = self._forward(module, norm)
            self._modules.append(module)

    def at(self, step: int) -> None:
        """Set the weights that hold at a step of training, from 0."""
        self._share = min(1.0, step / self.steps)
        if self._share == 1.0:
            for module in self._modules:
                vars(module).pop("forward", None)
            self._weights.clear()
        for begin, weights in self._weights.values():
            # Where they are: nothing comes from the host but two numbers.
            weights.copy_(self._now(begin))

    def _now(self, begin: torch.Tensor) -> torch.Tensor:
        return (1.0 - self._share) * begin + self._share / len(begin)

    def _forward(self, module: Any, norm: Norm) -> Callable[[torch.Tensor], torch.Tensor]:
        centred = norm.kind == "layer"
        eps = module.eps if hasattr(module, "eps") else module.variance_epsilon

        def forward(hidden_states: torch.Tensor) -> torch.Tensor:
            wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
            key = wide.device, wide.dtype
            if key not in self._weights:
                begin = self._begin.to(wide.device)
                self._weights[key] = begin, self._now(begin).to(wide.dtype)
            _, weights = self._weights[key]
            if centred:
                wide = wide - (wide * weights).sum(-1, keepdim=True)
            variance = (wide.square() * weights).sum(-1, keepdim=True)
            normalized = (wide * torch.rsqrt(variance + eps)).to(hidden_states.dtype) * (module.weight + norm.offset)
            return normalized if norm.bias is None else normalized + module.bias

        return forward
