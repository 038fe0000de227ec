"""Axis maps: which source index each target index copies, and how often each source index is copied."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from data_prep.errors import UserError
from pipeline import keyed
from pipeline.families import AxisKind, Sizes
from pipeline.recipe import GrowthConfig

Pick = Callable[[int, int, str], np.ndarray]
"""(source size, target size, what is mapped) to the map over them: int64 [target size], the source's own indices first."""


@dataclass(frozen=True)
class AxisMap:
    """The map g of one kind of axis: target index i copies source index g(i). Attention's maps count heads."""

    indices: torch.Tensor
    """g, int64, one entry a target index."""
    own: torch.Tensor
    """Which target indices are the source's own: one for each source index that is not split; the others are new."""
    source_size: int

    @cached_property
    def counts(self) -> torch.Tensor:
        """C of each target index: how many target indices share its source (bert2BERT eq. 7), float64."""
        return torch.bincount(self.indices, minlength=self.source_size)[self.indices].double()

    @property
    def balanced(self) -> bool:
        """Whether every source index is copied equally often: what a stock norm needs to stay exact."""
        return bool((self.counts == self.counts[0]).all())

    @property
    def splits(self) -> bool:
        """Whether a source index has several target indices of its own: key-value heads whose groups fall apart."""
        return int(self.own.sum()) > self.source_size

    @property
    def grows(self) -> bool:
        """Whether the target has more indices than the source."""
        return len(self.indices) > self.source_size


def build_maps(source: Sizes, target: Sizes, growth: GrowthConfig, seed: int) -> Mapping[AxisKind, AxisMap]:
    """Return the maps of the residual stream, of FFN units, and of query and key-value heads.

    Raises UserError where an operator's blocks do not divide.
    """
    pick = _PICKS.get(growth.width, _in_turn)(source, growth, seed)
    heads, kv_heads = _head_maps(source, target, pick)
    return {
        AxisKind.RESIDUAL: _plain(source.hidden_size, target.hidden_size, pick, "residual"),
        AxisKind.HEADS: heads,
        AxisKind.KV_HEADS: kv_heads,
        AxisKind.FFN: _plain(source.intermediate_size, target.intermediate_size, pick, "ffn"),
    }


def _plain(old: int, new: int, pick: Pick, what: str) -> AxisMap:
    return AxisMap(torch.from_numpy(pick(old, new, what)), torch.arange(new) < old, old)


def _head_maps(source: Sizes, target: Sizes, pick: Pick) -> tuple[AxisMap, AxisMap]:
    """Maps of query heads and key-value heads: whole groups of query heads move with the key-value head that they share.

    Group-major order: within each target group stand the heads of one source group, so that every query
    head meets its own keys. Where groups shrink, a source group is split and its key-value head repeated.
    """
    old_group = source.num_attention_heads // source.num_key_value_heads
    new_group = target.num_attention_heads // target.num_key_value_heads
    size = min(old_group, new_group)
    split = old_group // size
    groups = source.num_key_value_heads * split
    group_map = pick(groups, target.num_key_value_heads, "heads" if old_group == new_group == 1 else "key-value groups")
    place_map = pick(size, new_group, "heads of a group")
    # Split group e holds the query heads [e * size, (e + 1) * size) of the source.
    heads = (group_map[:, None] * size + place_map).reshape(-1)
    own_group = np.arange(target.num_key_value_heads) < groups
    own_heads = (own_group[:, None] & (np.arange(new_group) < size)).reshape(-1)
    return (
        AxisMap(torch.from_numpy(heads), torch.from_numpy(own_heads), source.num_attention_heads),
        AxisMap(torch.from_numpy(group_map // split), torch.from_numpy(own_group), source.num_key_value_heads),
    )


def _in_turn(source: Sizes, growth: GrowthConfig, seed: int) -> Pick:
    """New indices copy the source's from the first on, in turn; or, as bert2BERT eq. 5-6 and 11, uniform draws."""

    def pick(old: int, new: int, what: str) -> np.ndarray:
        own, extra = np.arange(old), new - old
        added = np.arange(old, new) % old if growth.map == "balanced" else keyed.below(("map", seed, what), 0, extra, old)
        return np.concatenate([own, added])

    return pick


def _neighbours(source: Sizes, growth: GrowthConfig, seed: int) -> Pick:
    """NAI 3.3.1: new blocks of one head's width copy the last ones in order (Figure 5), or the last one only."""

    def pick(old: int, new: int, what: str) -> np.ndarray:
        block = source.head_dim if what in ("residual", "ffn") else 1
        if old % block or new % block:
            raise UserError(
                f"growth.width: nai copies blocks of one head's width, {block}, and does not fit {what}: {old} -> {new}; both "
                "are to be multiples of it, or take fpi, which copies any number"
            )
        blocks, extra = old // block, (new - old) // block
        # Cyclically, where more blocks are new than there are.
        reused = 1 if growth.neighbours == "last" else max(1, min(extra, blocks))
        added = blocks - reused + np.arange(extra) % reused
        channels = (added[:, None] * block + np.arange(block)).reshape(-1)
        return np.concatenate([np.arange(old), channels])

    return pick


def _whole(source: Sizes, growth: GrowthConfig, seed: int) -> Pick:
    """HyperCloning: the whole axis again, an integer number of times."""

    def pick(old: int, new: int, what: str) -> np.ndarray:
        if new % old:
            raise UserError(
                f"growth.width: hypercloning repeats whole axes, and does not fit {what}: {old} -> {new}; choose a multiple of "
                f"{old}, or fpi, which copies any number"
            )
        return np.arange(new) % old

    return pick


_PICKS: dict[str, Callable[[Sizes, GrowthConfig, int], Pick]] = {"nai": _neighbours, "hypercloning": _whole}
