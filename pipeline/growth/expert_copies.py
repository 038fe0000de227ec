"""What makes copies of an expert unlike and keeps the function: opposite noise on what two of them write."""

import math

import torch

from pipeline.common import keyed
from pipeline.growth.grown_tensor import MeasuredTensor
from pipeline.growth.state import Rows


class OpposedCopy:
    """An expert's last matrix with noise that another copy of the expert has with the other sign.

    The two have one gate and units that copy the same ones, so that the noise on these cancels out in their sum.
    """

    def __init__(
        self, grown: Rows, source: MeasuredTensor, copied: torch.Tensor, key: tuple[object, ...], share: float
    ) -> None:
        """`copied` are the columns that read copies, `key` names the pair's noise.

        `share` is its size in standard deviations of the source's tensor, below zero for the second of the pair.
        """
        self.shape = grown.shape
        self.tensor, self._source, self._copied, self._key, self._share = grown, source, copied, key, share

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        width = math.prod(self.shape[1:])
        drawn = torch.from_numpy(keyed.normal_block(self._key, (start, stop), (0, width), width)).double()
        noise = drawn.mul_(self._share * self._source.std).mul_(self._copied)
        rows = self.tensor.rows(start, stop)
        # In float64 and rounded once: what is added to one copy is taken from the other.
        return (rows.double() + noise).to(rows.dtype)


def sign_of(expert: int, experts: int, source: int) -> tuple[int, float]:
    """Return the first expert of the pair that a target's expert is in, and its sign; 0 for a copy without another.

    The target has `experts`, copies of `source` of them in turn.
    """
    copy, first = divmod(expert, source)
    begin = first + (copy - copy % 2) * source
    paired = begin + source < experts
    return begin, (1.0 if copy % 2 == 0 else -1.0) if paired else 0.0
