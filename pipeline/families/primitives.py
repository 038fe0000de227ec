"""The least nodes of a model's graph: norms, matrices, tables, rotary positions."""

from dataclasses import dataclass
from typing import Literal

import torch

from pipeline.families.tensors import Axis, Init


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalization over channels, with a gain and perhaps a bias."""

    kind: Literal["rms", "layer"]
    gain: str
    bias: str | None = None
    offset: float = 0.0
    """What is added to the stored gain (Gemma: 1)."""
    span: Literal["all", "head"] = "all"
    """Over all channels that come in, or over those of each head."""
    gain_in_float32: bool = False
    """Whether the class multiplies by the gain before it goes back from float32, which makes a LayerNorm several kernels."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix, with or without a bias."""

    weight: str
    out: Axis
    into: Axis
    bias: str | None = None
    transposed: bool = False
    """Stored [in, out], as GPT-2's Conv1D is."""
    init: Init = 0.02


@dataclass(frozen=True, slots=True)
class Embedding:
    """A table of rows that are looked up and written into the stream."""

    weight: str
    port: str
    """Of its rows."""
    init: Init = 0.02
    scale: float = 1.0
    """What its rows are multiplied by."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """Positions that turn pairs of a head's channels."""

    dims: int
    """Channels of a head that are turned, from the first on."""
    interleaved: bool = False
    """Pairs are (2 i, 2 i + 1), and not (i, i + dims / 2)."""
    joined: bool = False
    """Whether the class joins the channels that it turns with the rest of a head, of which there may be none."""

    def turn(self, channels: torch.Tensor) -> torch.Tensor:
        """Return a number for each channel of a head that tells its pair's share of the head and its half; -1 if not turned."""
        pair, half = self.pairs_of(channels)
        return torch.where(channels < self.dims, pair.double() / (self.dims // 2) + 2.0 * half, -1.0)

    def pairs_of(self, channels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pair of each channel that is turned, and which of its two channels it is."""
        pairs = self.dims // 2
        return (channels // 2, channels % 2) if self.interleaved else (channels % pairs, channels // pairs)

    def channels_of(self, pairs: torch.Tensor, halves: torch.Tensor) -> torch.Tensor:
        """Return the channels of pairs."""
        return 2 * pairs + halves if self.interleaved else pairs + halves * (self.dims // 2)


@dataclass(frozen=True, slots=True)
class Latent:
    """What stands before attention's inputs in a few channels: a matrix of the stream, and a norm over what it gives.

    Multi-head latent attention (DeepSeek-V2, 2405.04434): c = norm(A x), of which heads are B c.
    """

    linear: Linear
    """Its first part is the latent; behind it may stand a key that all heads share."""
    norm: Norm

    @property
    def axis(self) -> Axis:
        """The latent's channels."""
        return Axis(self.linear.out.parts[:1])

    @property
    def port(self) -> str:
        """The latent's port."""
        return self.linear.out.parts[0].ports[0]
