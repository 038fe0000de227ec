"""Axis maps: which source index each target index copies, and how often each source index is copied."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from pipeline.operators import WidthOperator
from pipeline.operators.base import MapRequest
from pipeline.recipe import GrowthConfig


@dataclass(frozen=True)
class PortMap:
    """The map g of one port: target index i copies source index g(i). Attention's maps count heads."""

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
        """Whether a source index has several target indices of its own: key-value heads whose groups are split."""
        return int(self.own.sum()) > self.source_size

    @property
    def grows(self) -> bool:
        """Whether the target has more indices than the source."""
        return len(self.indices) > self.source_size


def build_maps(
    source: Mapping[str, int], target: Mapping[str, int], operator: WidthOperator, growth: GrowthConfig, seed: int
) -> Mapping[str, PortMap]:
    """Return the maps by port: of the residual stream, of FFN units, of query and key-value heads, and of latents.

    `source` and `target` are sizes by port. Raises UserError where an operator's blocks do not divide.
    """
    options = growth.model_dump()

    def pick(old: int, new: int, what: str, block: int = 1) -> np.ndarray:
        return operator.pick(MapRequest(old, new, what, block, seed, options))

    def plain(port: str) -> PortMap:
        old, new = source[port], target[port]
        return PortMap(torch.from_numpy(pick(old, new, port, source["head_dim"])), torch.arange(new) < old, old)

    heads, kv_heads = _head_maps(source, target, pick)
    units = {port: plain(port) for port in source if port.endswith("ffn")}
    # Latents are no wider by copies, whatever the operator.
    latents = {port: _appended(source[port], target[port]) for port in source if port.endswith("lora_rank")}
    return {"residual": plain("residual"), "heads": heads, "kv_heads": kv_heads, **units, **latents}


def _appended(old: int, new: int) -> PortMap:
    """The source's indices, and behind them new ones, each beside the one that it stands for."""
    index = torch.arange(new)
    return PortMap(index % old, index < old, old)


def _head_maps(
    source: Mapping[str, int], target: Mapping[str, int], pick: Callable[[int, int, str], np.ndarray]
) -> tuple[PortMap, PortMap]:
    """Maps of query heads and key-value heads: whole groups of query heads move with the key-value head that they share.

    Group-major order: within each target group stand the heads of one source group, so that every query
    head meets its own keys. Where groups shrink, a source group is split and its key-value head repeated.
    """
    old_group = source["heads"] // source["kv_heads"]
    new_group = target["heads"] // target["kv_heads"]
    size = min(old_group, new_group)
    split = old_group // size
    groups = source["kv_heads"] * split
    group_map = pick(groups, target["kv_heads"], "heads" if old_group == new_group == 1 else "key-value groups")
    place_map = pick(size, new_group, "heads of a group")
    # Split group e holds the query heads [e * size, (e + 1) * size) of the source.
    heads = (group_map[:, None] * size + place_map).reshape(-1)
    own_group = np.arange(target["kv_heads"]) < groups
    own_heads = (own_group[:, None] & (np.arange(new_group) < size)).reshape(-1)
    return (
        PortMap(torch.from_numpy(heads), torch.from_numpy(own_heads), source["heads"]),
        PortMap(torch.from_numpy(group_map // split), torch.from_numpy(own_group), source["kv_heads"]),
    )
