"""The bytes that DeepSpeed keeps of a model on each rank, by ZeRO stage, without activations and gathered layers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from pipeline.deepspeed.zero_layout import partition_size
from pipeline.growth.state import State
from pipeline.growth.streaming import CHUNK_ELEMENTS

_FLOAT = torch.float32.itemsize

_CHUNKS = 10
"""Chunks of float32 rows that growth holds at once where noise is laid on copies: what is made, a mask, and in float64 draws,
scales and two products of them; without noise there are three."""

_SUB_GROUP = 1_000_000_000
"""Elements that DeepSpeed steps at once under ZeRO-3 where its file does not say (`sub_group_size`)."""


@dataclass(frozen=True, slots=True)
class RankBytes:
    """What one rank keeps, at most, between and during steps."""

    weights: int
    gradients: int
    masters: int
    """Weights in float32, where they are not the weights themselves."""
    moments: int
    """Whatever the optimizer keeps for each element, in float32."""
    stepping: int
    """Gradients in float32, while they are stepped."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.masters + self.moments + self.stepping


def growing_bytes(kept: RankBytes, optimizer: bool, widest: int) -> int:
    """Return what a rank holds, at most, while its pieces are filled: an engine before its first step, and chunks of rows.

    What a source's file is mapped to, and DeepSpeed's own buffers, come on top.

    `optimizer`: whether what it keeps is filled too; else it does not exist yet. `widest` is the longest row (elements).
    """
    engine = kept.weights + kept.gradients + kept.masters + (kept.moments if optimizer else 0)
    return engine + _CHUNKS * max(CHUNK_ELEMENTS, widest) * _FLOAT


def widest(*states: State) -> int:
    """Return the longest row (elements)."""
    return max(math.prod(tensor.shape[1:]) for state in states for tensor in state.values())


def rank_bytes(tensors: Iterable[tuple[int, int]], ranks: int, stage: int, dtype: torch.dtype) -> RankBytes:
    """Return what a rank keeps of tensors given as (elements, values that the optimizer keeps for each element).

    Under ZeRO-1 a rank owns its partition of the masters and of what the optimizer keeps, under ZeRO-2 of the gradients too,
    under ZeRO-3 of all (Rajbhandari et al. 2020); a partition is the tensor's share, rounded up. Without ZeRO every
    rank keeps all, and in float32 steps the weights themselves.
    """
    whole = own = moments = 0
    for elements, kept in tensors:
        partition = partition_size(elements, ranks if stage else 1)
        whole, own, moments = whole + elements, own + partition, moments + partition * kept
    half = dtype.itemsize < _FLOAT
    stepped = min(own, _SUB_GROUP) if stage == 3 else own
    return RankBytes(
        weights=(own if stage == 3 else whole) * dtype.itemsize,
        gradients=(own if stage >= 2 else whole) * dtype.itemsize,
        masters=own * _FLOAT if stage or half else 0,
        moments=moments * _FLOAT,
        stepping=stepped * _FLOAT if half else 0,
    )
