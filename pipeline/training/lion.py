"""Lion that can leave parameter groups out of a step."""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.training.freezing import Freezable, gradients_of


class FreezableLion(Freezable):
    """Lion (Chen et al. 2023, algorithm 2) with frozen groups; DeepSpeed's own has to be compiled and has none."""

    moments = ("exp_avg",)

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the groups that are not frozen."""
        moving = self.moving()
        self.forget_added(moving)
        with self.with_separate_rows(moving) as groups:
            for group in groups:
                parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
                if not parameters:
                    continue
                momenta = [self.state_of(parameter)["exp_avg"] for parameter in parameters]
                gradients, (beta1, beta2) = gradients_of(parameters), group["betas"]
                shares = [self.share_of(parameter) for parameter in parameters]
                signs = torch._foreach_lerp(momenta, gradients, 1 - beta1)
                torch._foreach_sign_(signs)
                self.move(parameters, signs, shares, group)
                torch._foreach_lerp_(momenta, gradients, 1 - beta2)
