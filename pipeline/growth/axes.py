"""Axis maps: which source index each target index copies, and how often each source index is copied."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from data_prep.errors import UserError
from pipeline import keyed
from pipeline.families import AxisKind, Sizes
from pipeline.recipe import GrowthConfig

GROWN_KINDS = (AxisKind.RESIDUAL, AxisKind.HEADS, AxisKind.FFN)


@dataclass(frozen=True)
class AxisMap:
    """The map g of one kind of axis: target index i copies source index g(i)."""

    indices: torch.Tensor
    """g, int64, one entry a target index; the first entries are the source's own, in order."""
    source_size: int

    @cached_property
    def counts(self) -> torch.Tensor:
        """C of each target index: how many target indices share its source (bert2BERT eq. 7)."""
        return torch.bincount(self.indices, minlength=self.source_size)[self.indices]

    @property
    def balanced(self) -> bool:
        """Whether every source index is copied equally often: what a stock LayerNorm needs to stay exact."""
        return bool((self.counts == self.counts[0]).all())

    @property
    def grows(self) -> bool:
        """Whether the target has more indices than the source."""
        return len(self.indices) > self.source_size

    @property
    def new(self) -> torch.Tensor:
        """Which target indices the source does not have, bool."""
        return torch.arange(len(self.indices)) >= self.source_size


def build_maps(source: Sizes, target: Sizes, growth: GrowthConfig, seed: int) -> dict[AxisKind, AxisMap]:
    """Return the map of each kind of axis that may grow.

    Raises UserError where NAI's blocks do not divide.
    """
    maps: dict[AxisKind, AxisMap] = {}
    for kind in GROWN_KINDS:
        old, new = source.of(kind), target.of(kind)
        # Heads move whole: scores are sums over one head's channels. NAI cuts every axis into such blocks.
        block = source.head_dim if kind is AxisKind.HEADS or growth.width == "nai" else 1
        if old % block or new % block:
            raise UserError(
                f"growth.width: nai copies blocks of one head's width, {block}, and the {kind} axis grows {old} -> {new}; "
                "choose sizes that are multiples of it"
            )
        blocks = _block_map(old // block, new // block, growth, ("map", seed, str(kind)))
        channels = (blocks[:, None] * block + np.arange(block)).reshape(-1)
        maps[kind] = AxisMap(torch.from_numpy(channels), old)
    return maps


def _block_map(old: int, new: int, growth: GrowthConfig, key: tuple[object, ...]) -> np.ndarray:
    """The map over whole blocks: int64 [new]."""
    own = np.arange(old)
    extra = new - old
    if growth.width == "nai":
        # NAI 3.3.1, Figure 5: the new blocks are the last ones again, in order, cyclically where there are too few.
        reused = min(extra, old)
        added = old - reused + np.arange(extra) % max(reused, 1)
    elif growth.map == "balanced":
        added = np.arange(old, new) % old
    else:
        # bert2BERT eq. 5-6, 11: f({1, ..., d}) is a uniform draw.
        added = keyed.below(key, 0, extra, old)
    return np.concatenate([own, added]).astype(np.int64)
