"""Index maps: what stands at each index of one axis of a target tensor."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from pipeline.families.tensors import Axis

Sizes = Mapping[str, int]
"""By port."""

ZERO, INIT, MEAN, SMALL, MEAN_OF_SOME = -1, -2, -3, -4, -5
"""In place of a source index: zeros; the model's own initialization; the mean over the source's axis; small values; the mean
over some of the source's indices, which `AxisIndexMap.mean_sources` names."""

_NO_CODE = -99

_DEFAULTS = {"scale": 1.0, "copies": 1.0, "repeats": False, "next_layer": False, "fresh": False}
"""What the fields of a map that are None stand for."""

_LEAST_RUN = 16
"""Copied indices in a row, on average, from which slices are faster than a gather."""


@dataclass(frozen=True, slots=True)
class IndexRun:
    """Target indices [start, stop) that are made alike."""

    start: int
    stop: int
    code: int
    """ZERO, INIT, MEAN, SMALL, MEAN_OF_SOME, or 0 for copies."""
    indices: slice | torch.Tensor
    """The source indices of copies."""
    scale: float | torch.Tensor
    next_layer: bool


@dataclass(frozen=True, slots=True)
class MeanSources:
    """Which source indices the target indices at MEAN_OF_SOME are the mean of, one after the other."""

    begins: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Where those of each target index begin; int64, for every index of the axis."""
    sources: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Source indices, int64."""

    def of(self, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return those of target indices [first, last), and where those of each begin among them."""
        begin = int(self.begins[first])
        end = int(self.begins[last]) if last < len(self.begins) else len(self.sources)
        return self.sources[begin:end], self.begins[first:last] - begin


@dataclass(frozen=True)
class AxisIndexMap:
    """What each index of one axis of a target tensor is made of."""

    indices: torch.Tensor
    """Source index of each target index, or one of the codes; int64."""
    scale: torch.Tensor | None = None
    """What each target index is multiplied by, float64; None for 1 throughout."""
    copies: torch.Tensor | None = None
    """C of each target index, float64; None for 1 throughout."""
    repeats: torch.Tensor | None = None
    """Which target indices the source does not have; None for none."""
    next_layer: torch.Tensor | None = None
    """Which are read from the source's next layer; None for none."""
    fresh: torch.Tensor | None = None
    """Which start without moments, whatever they copy; None for none."""
    mean_sources: MeanSources = field(default_factory=MeanSources)
    """What those at MEAN_OF_SOME are made of."""

    @classmethod
    def identity(cls, size: int) -> "AxisIndexMap":
        """Every index itself."""
        return cls(torch.arange(size))

    def __len__(self) -> int:
        return len(self.indices)

    def blocks(self, size: int, places: torch.Tensor, code: int) -> "AxisIndexMap":
        """Turn an index a head into an index a channel: channel c of a head copies channel `places[c]`, or is `code` at -1."""
        width = len(places)
        placed = torch.where(places < 0, code, places)
        channels = torch.where(placed < 0, placed, self.indices[:, None] * size + placed)
        indices = torch.where(self.indices[:, None] < 0, self.indices[:, None], channels).reshape(-1)
        fields = _fields([self], lambda values: values[0].repeat_interleave(width))
        if width > size:
            fields["repeats"] = (places < 0).repeat(len(self)) | fields.get("repeats", False)
        return AxisIndexMap(indices, **fields)

    def filled(self, name: str) -> torch.Tensor:
        """Return a field, and where it is None what that stands for, at every target index."""
        value: torch.Tensor | None = getattr(self, name)
        if value is not None:
            return value
        default = _DEFAULTS[name]
        return torch.full((len(self),), default, dtype=torch.bool if default is False else torch.float64)

    def times(self, factor: float) -> "AxisIndexMap":
        """The same, multiplied by `factor`."""
        if factor == 1.0:
            return self
        return replace(self, scale=self.factors * factor)

    @property
    def keeps_moments(self) -> torch.Tensor:
        """Which target indices copy an index whose gradient they share: one of their own layer, and none that starts fresh."""
        return self.copied & ~self.filled("next_layer") & ~self.filled("fresh")

    @cached_property
    def new(self) -> torch.Tensor:
        """Which target indices the source does not have: values of no source index, and of copies all but the source's own."""
        own = torch.where(self.filled("repeats"), ZERO, self.indices)
        values, inverse = own.unique(return_inverse=True)
        places = torch.arange(len(self))
        first = torch.full((len(values),), len(self)).scatter_reduce(0, inverse, places, "amin")
        return (own < 0) | (places != first[inverse])

    @property
    def copied(self) -> torch.Tensor:
        """Which target indices copy one of the source's, of whatever layer."""
        return self.indices >= 0

    def of(self, which: torch.Tensor, scale: torch.Tensor | None, elsewhere: int) -> "AxisIndexMap":
        """These of the copies, at another scale; the code `elsewhere` for all else."""
        next_layer = None if self.next_layer is None or not self.reads_next_layer else self.next_layer & which
        return AxisIndexMap(torch.where(which, self.indices, elsewhere), scale, next_layer=next_layer)

    def starting_fresh(self) -> "AxisIndexMap":
        """The same, but without moments."""
        return replace(self, fresh=torch.ones(len(self), dtype=torch.bool))

    @property
    def derivative(self) -> torch.Tensor | None:
        """1 / (a C): by how much a gradient at a target index is smaller than the one at its source; None for 1 throughout."""
        if self.scale is None and self.copies is None:
            return None
        return 1.0 / (self.factors * self.filled("copies"))

    @property
    def factors(self) -> torch.Tensor:
        """The scale, float64, 1 where it is not said."""
        return self.filled("scale")

    @cached_property
    def is_identity(self) -> bool:
        """Whether every target index is the source's own, unscaled."""
        return (
            not self.reads_next_layer
            and bool((self.indices == torch.arange(len(self))).all())
            and (self.scale is None or bool((self.scale == 1).all()))
        )

    @cached_property
    def codes(self) -> frozenset[int]:
        """The codes that occur."""
        return frozenset(code for code in (ZERO, INIT, MEAN, SMALL) if bool((self.indices == code).any()))

    @cached_property
    def reads_next_layer(self) -> bool:
        """Whether anything comes from the source's next layer."""
        return self.next_layer is not None and bool(self.next_layer.any())

    @cached_property
    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(first, sign): copies of one source index in pairs, each with the pair's first index and +1 or -1; a copy
        without another has sign 0."""
        first, sign = torch.arange(len(self)), torch.zeros(len(self), dtype=torch.float64)
        order = torch.argsort(self.indices, stable=True)
        grouped = self.indices[order]
        begins = torch.searchsorted(grouped, grouped)
        rank = torch.arange(len(self)) - begins
        followed = torch.zeros(len(self), dtype=torch.bool)
        followed[:-1] = (grouped[1:] == grouped[:-1]) & (rank[:-1] % 2 == 0) & (grouped[:-1] >= 0)
        leaders = followed.nonzero().reshape(-1)
        first[order[leaders + 1]] = order[leaders]
        sign[order[leaders]], sign[order[leaders + 1]] = 1.0, -1.0
        return first, sign

    @cached_property
    def runs(self) -> list[IndexRun]:
        """The map as runs: slices where copies stand in rows, gathers where they do not."""
        size = len(self)
        following = torch.zeros(size, dtype=torch.bool)
        code = self.indices.clamp(max=0)
        next_layer, scale = self.filled("next_layer"), self.factors
        alike = (code[1:] == code[:-1]) & (next_layer[1:] == next_layer[:-1])
        step = (self.indices[1:] == self.indices[:-1] + 1) | (code[1:] < 0)
        following[1:] = alike
        runs = []
        for start, stop in _spans(following):
            kind = int(code[start])
            straight = following[start:stop].clone()
            straight[1:] &= step[start : stop - 1] & (scale[start + 1 : stop] == scale[start : stop - 1])
            slices = _spans(straight)
            if kind == 0 and (stop - start) < _LEAST_RUN * len(slices) and len(slices) > 1:
                runs.append(
                    IndexRun(start, stop, 0, self.indices[start:stop], scale[start:stop].clone(), bool(next_layer[start]))
                )
                continue
            for first, last in slices:
                begin, end = start + first, start + last
                source = slice(int(self.indices[begin]), int(self.indices[begin]) + end - begin)
                runs.append(IndexRun(begin, end, kind, source, float(scale[begin]), bool(next_layer[begin])))
        return runs


def along(axis: Axis, maps: Sequence[AxisIndexMap], source: Sizes, target: Sizes) -> AxisIndexMap:
    """Return the map of a whole axis from those of its parts."""
    if len(maps) == 1:
        return maps[0]
    places = [(axis.places(number, source), axis.places(number, target)) for number in range(len(maps))]

    def placed(values: Sequence[torch.Tensor]) -> torch.Tensor:
        whole = torch.empty(axis.size(target), dtype=values[0].dtype)
        for value, (_, here) in zip(values, places, strict=True):
            whole[here] = value
        return whole

    indices = [
        torch.where(each.indices < 0, each.indices, there[each.indices.clamp(min=0)])
        for each, (there, _) in zip(maps, places, strict=True)
    ]
    return AxisIndexMap(placed(indices), **_fields(maps, placed))


def product(maps: Sequence[AxisIndexMap], source: Sequence[int]) -> AxisIndexMap:
    """Return the map of several axes of these source sizes as one, the last innermost; of none, that of a single index.

    Of two codes the one that decides of a tensor's element stands: zeros before initial values before small ones. Raises
    ValueError for means, which are over one axis alone.
    """
    if not maps:
        return AxisIndexMap.identity(1)
    whole = maps[0]
    for each, size in zip(maps[1:], source[1:], strict=True):
        whole = _nested(whole, each, size)
    return whole


def _nested(outer: AxisIndexMap, inner: AxisIndexMap, size: int) -> AxisIndexMap:
    """Return the map of two axes as one, the source having `size` indices along the inner one."""
    if MEAN in outer.codes | inner.codes:
        raise ValueError("a mean over one of several axes that are read as one")

    def spread(values: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return values[0].repeat_interleave(len(inner)), values[1].repeat(len(outer))

    def joined(values: Sequence[torch.Tensor]) -> torch.Tensor:
        one, other = spread(values)
        return one * other if one.is_floating_point() else one | other

    one, other = spread([outer.indices, inner.indices])
    code = torch.maximum(torch.where(one < 0, one, _NO_CODE), torch.where(other < 0, other, _NO_CODE))
    return AxisIndexMap(torch.where(code > _NO_CODE, code, one * size + other), **_fields([outer, inner], joined))


def _fields(maps: Sequence[AxisIndexMap], join: Callable[[Sequence[torch.Tensor]], torch.Tensor]) -> dict[str, Any]:
    """Return the fields of a map that is made of several: what `join` makes of theirs, without those that none of them has."""
    held = [name for name in _DEFAULTS if any(getattr(each, name) is not None for each in maps)]
    return {name: join([each.filled(name) for each in maps]) for name in held}


def _spans(following: torch.Tensor) -> list[tuple[int, int]]:
    """The stretches that begin where `following` is false."""
    starts = [0, *(i for i in (~following).nonzero().reshape(-1).tolist() if i > 0), len(following)]
    return list(itertools.pairwise(starts))
