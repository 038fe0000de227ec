"""The norms of an added layer that writes nothing, in a post-LN model, where each layer ends in a norm.

What comes in is gain * n + bias of the norm below, n of mean 0 and variance 1 in each token. Its mean over the channels is
mean(bias), its variance on average mean(gain^2) + var(bias). A norm with the root of that as its gain and that mean as its
bias gives back what comes in, but for how a token's own variance differs from the average. The norm of a layer's attention
and that of its FFN are alike: the second undoes the first and does the same.
"""

from typing import Literal

import torch

from pipeline.growth.state import Rows


class IdentityNorm:
    """The gain or the bias, at the source's width."""

    def __init__(self, part: Literal["gain", "bias"], gain: Rows, bias: Rows) -> None:
        """`gain` and `bias` are those of the norm whose output comes in."""
        self.shape = bias.shape
        self.read = (bias, gain) if part == "gain" else (bias,)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        bias, *gain = (vector.rows(0, vector.shape[0]).double() for vector in self.read)
        value = (gain[0].square().mean() + bias.var(unbiased=False)).sqrt() if gain else bias.mean()
        return value.to(self.read[0].rows(0, 1).dtype).repeat(stop - start)
