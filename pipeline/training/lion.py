"""Lion that can leave parameter groups out of a step."""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.training.freezing import Freezable


class FreezableLion(Freezable):
    """Lion (Chen et al. 2023, algorithm 2) with frozen groups; DeepSpeed's own has to be compiled and has none."""

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})

    def elementwise(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the parameter's momentum."""
        self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
        return self.state[parameter]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the groups that are not frozen."""
        with self.with_separate_rows(self.moving()) as groups:
            self._step_groups(groups)

    def _step_groups(self, groups: list[dict[str, Any]]) -> None:
        for group in groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if "exp_avg" not in self.state[parameter]:
                    self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
            momenta = [self.state[parameter]["exp_avg"] for parameter in parameters]
            gradients, (beta1, beta2) = [parameter.grad for parameter in parameters], group["betas"]
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            signs = torch._foreach_lerp(momenta, gradients, 1 - beta1)
            torch._foreach_sign_(signs)
            torch._foreach_add_(parameters, signs, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - beta2)
