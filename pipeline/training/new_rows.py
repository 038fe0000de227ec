"""The rows of new tokens in a matrix of tokens, where they learn by themselves."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from pipeline.growth.zero_sink import Master


class NewRows:
    """Which rows of a parameter are of new tokens; where they learn alone the others have no gradient."""

    def __init__(self, parameter: nn.Parameter, numbers: torch.Tensor, rows: int) -> None:
        """`numbers` are those of the new rows, of so many `rows`."""
        self.parameter = parameter
        self.mask = torch.zeros(rows, dtype=torch.bool)
        self.mask[numbers] = True
        self.alone = False
        # Before ranks' gradients are summed: neither a norm nor a momentum then knows of the others.
        parameter.register_hook(self._of_new)

    def _of_new(self, gradient: torch.Tensor) -> torch.Tensor:
        if not self.alone:
            return gradient
        self.mask = self.mask.to(gradient.device)
        return gradient.masked_fill(~self.mask.view(-1, *[1] * (gradient.dim() - 1)), 0)


def elements_of(masters: Iterable[Master], tables: Mapping[str, NewRows], width: int) -> dict[torch.Tensor, torch.Tensor]:
    """Return, of each master with rows of such tables, which of its elements are of new rows; bool, flat.

    Rows are of `width` elements, and a master may begin and end within one. Padding behind the last row is left out.
    """
    found: dict[torch.Tensor, torch.Tensor] = {}
    for master in masters:
        fragments = [each for each in master.fragments if each.name in tables and each.start < each.stop]
        # A master that lies on a disk does not tell its size.
        mask = torch.zeros(max((each.place + each.stop - each.start for each in fragments), default=0), dtype=torch.bool)
        for fragment in fragments:
            first, last = fragment.start // width, -(-fragment.stop // width)
            rows = tables[fragment.name].mask[first:last].repeat_interleave(width)
            begin, count = fragment.start - first * width, fragment.stop - fragment.start
            mask[fragment.place : fragment.place + count] = rows[begin : begin + count]
        if bool(mask.any()):
            found[master.stepped] = mask.to(master.stepped.device)
    return found
