"""Layers that are averages of the source's."""

from collections.abc import Sequence

import torch

from pipeline.growth.state import Rows


class AveragedRows:
    """The weighted sum of tensors of one shape, in float64."""

    def __init__(self, parts: Sequence[tuple[Rows, float]]) -> None:
        """`parts` are tensors and their weights."""
        self.shape = parts[0][0].shape
        self.parts = parts

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        read = [tensor.rows(start, stop) for tensor, _ in self.parts]
        total = torch.zeros(read[0].shape, dtype=torch.float64, device=read[0].device)
        for rows, (_, weight) in zip(read, self.parts, strict=True):
            total.add_(rows.double(), alpha=weight)
        return total
