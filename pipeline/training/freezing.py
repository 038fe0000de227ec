"""What every optimizer here can do: leave parameter groups out of a step, or refuse it whole."""

from collections.abc import Callable
from typing import Any

import torch


class Freezable(torch.optim.Optimizer):
    """An optimizer whose groups with `frozen` set stand still: weights, moments and step counters.

    `requires_grad = False` alone would not do: a partition without a new gradient still moves by its
    momentum and its decay.
    """

    refuses: Callable[[], bool] | None = None
    """Asked at the start of a step; where it says True nothing moves. ZeRO-3 steps each sub-group by itself, so it is
    asked several times a step and has to give every rank the same answer each time."""

    def moving(self) -> list[dict[str, Any]]:
        """The groups that this step moves."""
        if self.refuses is not None and self.refuses():
            return []
        return [group for group in self.param_groups if not group["frozen"]]
