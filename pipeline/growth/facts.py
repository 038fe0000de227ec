"""What is known of the target's activations in terms of the source's, and how sums, products and norms pass it on.

The rules are numeric, over the index of each channel, and so hold for whatever maps an operator has chosen: copied with
counts, scaled, zero, at the mean, or noise that the source does not determine.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from pipeline.growth.index_map import INIT, MEAN, SMALL, ZERO, AxisIndexMap

NOISE = -9
"""In place of a source index: values that the source does not determine."""

_RTOL = 1e-9
"""Scales are products of a few roots and quotients in float64."""


@dataclass(frozen=True, slots=True)
class Break:
    """Why something is not the source's: a code, and the numbers that its sentence names."""

    code: str
    facts: dict[str, Any] = field(default_factory=dict)

    def at(self, port: str) -> "Break":
        """The same, at a port."""
        return Break(self.code, {**self.facts, "port": port})


@dataclass(frozen=True, slots=True)
class Departure:
    """A node at which the target computes something else than its source."""

    tensor: str
    """The node's first tensor."""
    cause: Break


@dataclass(frozen=True)
class Fact:
    """Of each target index: `scale` times the source's `index`; or by its code 0, the mean over the source's, or noise."""

    index: torch.Tensor
    scale: torch.Tensor
    source_size: int

    @classmethod
    def given(cls, rows: AxisIndexMap, source_size: int, factor: float = 1.0) -> "Fact":
        """What rows give where `factor` times the source's input comes in; rows of the next layer count as their own."""
        index = rows.indices
        if rows.codes & {INIT, SMALL}:
            index = torch.where((index == INIT) | (index == SMALL), NOISE, index)
        return cls(index, rows.factors if factor == 1.0 else rows.factors * factor, source_size)

    def noisy(self, where: torch.Tensor) -> "Fact":
        """The same, but noise at these indices."""
        return Fact(torch.where(where, NOISE, self.index), self.scale, self.source_size)

    @cached_property
    def copied(self) -> torch.Tensor:
        """Which are copies."""
        return self.index >= 0

    @cached_property
    def scaled(self) -> bool:
        """Whether any copy is at another scale than the source's."""
        return bool((self.scale != 1).any())

    @property
    def is_identity(self) -> bool:
        """Whether it is the source's own, unscaled."""
        own = torch.arange(self.source_size)
        return torch.equal(self.index, own) and not self.scaled

    @cached_property
    def counts(self) -> torch.Tensor:
        """C of each copy (bert2BERT eq. 7), float64; 1 for all else."""
        counts = self.sums(torch.ones_like(self.scale))
        return torch.where(self.copied, counts[self.index.clamp(min=0)], 1.0)

    def sums(self, weights: torch.Tensor) -> torch.Tensor:
        """Return of each source index the sum of `weights` over its copies, float64 [source_size]."""
        index = self.index[self.copied]
        return torch.zeros(self.source_size, dtype=torch.float64).index_add_(0, index, weights[self.copied])


def same(one: torch.Tensor, other: torch.Tensor | float) -> bool:
    """Whether scales are equal but for rounding."""
    return bool(torch.isclose(one, torch.as_tensor(other, dtype=torch.float64), rtol=_RTOL, atol=0.0).all())


def agree(one: Fact, other: Fact) -> tuple[Fact, Break | None]:
    """Return the fact of a sum, whose terms are to have one form; a term that is zero throughout has any."""
    for term, rest in ((one, other), (other, one)):
        if bool((term.index == ZERO).all()):
            return rest, None
    if not torch.equal(one.index, other.index):
        return other, Break("writers_differ")
    held = one.index != ZERO
    return other, None if same(one.scale[held], other.scale[held]) else Break("writers_scaled_differently")


def read(fact: Fact, columns: AxisIndexMap) -> tuple[float, Break | None]:
    """Return what a product of the columns with what comes in is of the source's product."""
    reads = columns.indices != ZERO
    if bool((reads & (fact.index == NOISE)).any()):
        return 1.0, Break("noise_is_read")
    if bool((reads & (fact.index == MEAN)).any()):
        return 1.0, Break("mean_is_read")
    if bool((reads & fact.copied & (columns.indices != fact.index)).any()):
        return 1.0, Break("copies_are_read_as_others")
    factors = fact.sums(torch.where(reads, columns.factors * fact.scale, 0.0))
    if float(factors[0]) == 0.0 or not same(factors, factors[0]):
        return 1.0, Break("copies_are_read_unevenly")
    return float(factors[0]), None


def activate(fact: Fact) -> Break | None:
    """Return why an activation does not give what comes in: copies and zeros pass, and no multiple or mean of them does."""
    passes = same(fact.scale[fact.copied], 1.0) and not bool((fact.index == MEAN).any())
    return None if passes else Break("activated")


def normalize(fact: Fact, kind: str, *, weighted: bool = False) -> tuple[Fact, Break | None]:
    """Return what a norm without its gain makes of what comes in, as multiples of what it makes of the source's.

    eps is a constant, so that the statistics are to be the source's own. `weighted` statistics count each source channel
    once, however often it is copied.
    """
    means, zeros, noise = (fact.index == code for code in (MEAN, ZERO, NOISE))
    out = Fact(torch.where(means, ZERO, fact.index) if kind == "layer" else fact.index, fact.scale, fact.source_size)
    if bool(noise.any()):
        return out, Break("noise_enters_norm")
    shares = fact.sums(fact.scale**2) * (fact.source_size / len(fact.index))
    if kind == "rms" and bool(means.any()):
        return out, Break("means_enter_rms_norm")
    if kind == "layer" and bool(zeros.any()):
        # They come out as the negative mean; the variance is taken as if that were small.
        return _times(out.noisy(zeros), 1 / float(shares.mean().sqrt())), Break("zeros_enter_layer_norm")
    if kind == "layer" and not same(fact.scale, fact.scale[0]):
        return out, Break("scales_differ_under_layer_norm")
    if weighted and bool(fact.copied.all()):
        return out, None
    if not same(shares, shares[0]):
        counts = sorted({int(count) for count in fact.counts[fact.copied].tolist()})
        return out, Break("uneven_counts", {"counts": counts})
    ratio = math.sqrt(float(shares[0]))
    if math.isclose(ratio, 1.0, rel_tol=_RTOL):
        return out, None
    return _times(out, 1 / ratio), Break("statistics_scaled", {"ratio": ratio})


def _times(fact: Fact, factor: float) -> Fact:
    return Fact(fact.index, fact.scale * factor, fact.source_size)
