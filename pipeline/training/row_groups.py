"""Parameters with rows of several parameter groups: matrices of tokens with new ones among them, fused experts."""

import math
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn

from pipeline.deepspeed.masters import Master


class RowGroups:
    """Which rows of a parameter are of which group; those of a frozen group have no gradient."""

    def __init__(self, parameter: nn.Parameter, shape: tuple[int, ...], rows: Mapping[str, torch.Tensor]) -> None:
        """`shape` is that of the whole parameter; `rows` are the numbers of each group's rows, by the group's name."""
        self.width = math.prod(shape[1:])
        self.masks = {name: torch.zeros(shape[0], dtype=torch.bool) for name in rows}
        for name, numbers in rows.items():
            self.masks[name][numbers] = True
        self._frozen: torch.Tensor | None = None
        # Before ranks' gradients are summed: neither a norm nor a momentum then knows of the others.
        parameter.register_hook(self._of_learning)

    def learn(self, groups: Collection[str]) -> None:
        """Let the rows of these groups learn."""
        frozen = torch.stack([mask for name, mask in self.masks.items() if name not in groups] or [torch.zeros(1)])
        self._frozen = frozen.any(0) if bool(frozen.any()) else None

    def _of_learning(self, gradient: torch.Tensor) -> torch.Tensor:
        if self._frozen is None:
            return gradient
        self._frozen = self._frozen.to(gradient.device)
        return gradient.masked_fill(self._frozen.view(-1, *[1] * (gradient.dim() - 1)), 0)


def elements_of(masters: Iterable[Master], rows: Mapping[str, RowGroups]) -> dict[torch.Tensor, dict[str, torch.Tensor]]:
    """Return, of each master with rows of such parameters, which of its elements are of which group; bool, flat.

    A master may begin and end within a row. Padding behind the last row is left out.
    """
    found: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
    for master in masters:
        slices = [held for held in master.slices if held.name in rows and held.numel]
        # A master that lies on a disk is empty.
        size = max((held.end for held in slices), default=0)
        masks: dict[str, torch.Tensor] = {}
        for held in slices:
            width = rows[held.name].width
            first, last = held.start // width, -(-held.stop // width)
            begin = held.start - first * width
            for name, mask in rows[held.name].masks.items():
                elements = mask[first:last].repeat_interleave(width)[begin : begin + held.numel]
                if bool(elements.any()):
                    masks.setdefault(name, torch.zeros(size, dtype=torch.bool))[held.place : held.end] = elements
        if masks:
            found[master.stepped] = {name: mask.to(master.stepped.device) for name, mask in masks.items()}
    return found
