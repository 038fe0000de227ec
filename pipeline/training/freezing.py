"""What every optimizer here can do: leave parameter groups out of a step, or refuse it whole."""

from collections.abc import Callable
from typing import Any

import torch


class Freezable(torch.optim.Optimizer):
    """An optimizer whose groups with `frozen` set stand still: weights, moments and step counters.

    `requires_grad = False` alone would not do: a partition without a new gradient still moves by its
    momentum and its decay.
    """

    refuses: Callable[[], torch.Tensor | bool] | None = None
    """Asked at the start of a step; where it says True, or 1 on the device, nothing moves. ZeRO steps each group by itself, so
    it is asked several times a step and has to give every rank the same answer each time."""

    def moving(self) -> list[dict[str, Any]]:
        """The groups that this step moves; where the answer lies on the device, the host waits for it here."""
        if self.refuses is not None and bool(self.refuses()):
            return []
        return self.unfrozen()

    def unfrozen(self) -> list[dict[str, Any]]:
        """The groups that a step moves which is not refused."""
        return [group for group in self.param_groups if not group["frozen"]]
