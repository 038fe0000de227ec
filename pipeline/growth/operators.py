"""Width operators: what each makes of the residual stream and of units (heads, key-value heads, FFN units).

| operator | residual stream | units |
|---|---|---|
| fpi | copies (bert2BERT 3.3.1) | copies |
| aki | copies, new rows from the next layer (bert2BERT 3.3.2) | likewise |
| nai | copies of neighbouring blocks (NAI 3.3.1) | likewise |
| hypercloning | whole copies | whole copies |
| sqrt_count | copies of h / sqrt(C) | copies |
| average_pad | whole copies, the rest at their mean (LEMON) | copies |
| zero_pad | zeros or small values (transfer training) | likewise |
| zero_pad, scaled | zeros, scaled for the norm | read at random, write nothing |
| direct_copy | random | random |
| exact_aki | the norm's exact rule | read as the next layer's, write nothing |

The scales: with whatever writes the residual stream multiplied by w, and C copies read at 1/C each, a
norm's gain is divided by w, and a final norm before a tied output matrix has gain / (w^2 C), bias / (w C).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch

from data_prep.errors import UserError
from pipeline.families import Family, Sizes
from pipeline.growth.axes import AxisMap
from pipeline.growth.sides import INIT, MEAN, SMALL, ZERO, Side
from pipeline.recipe import GrowthConfig


class Residual(Enum):
    """What new channels of the residual stream hold."""

    COPY = "copies"
    SQRT_COPY = "copies of h / sqrt(C)"
    MEAN_OF_COPIES = "whole copies, the rest at the mean"
    MEAN = "the mean"
    ZERO = "zeros, scaled for the norm"
    SMALL = "small values"
    INIT = "random values"


class Units(Enum):
    """What new heads and FFN units do."""

    COPY = "copies"
    SILENT_NEXT = "read as the next layer's, write nothing"
    SILENT = "read at random, write nothing"
    SMALL = "small values"
    INIT = "random values"


@dataclass(frozen=True, slots=True)
class WidthOperator:
    """One width operator."""

    residual: Residual
    units: Units
    next_layer: bool = False
    """Rows of new outputs come from the source's next layer."""


def width_operator(growth: GrowthConfig, family: Family) -> WidthOperator:
    """Return what the operator comes to for a family's norms."""
    if growth.width == "exact_aki":
        if not family.pre_norm:
            return WidthOperator(Residual.COPY, Units.SILENT_NEXT)
        return WidthOperator(Residual.MEAN if family.norm == "layer_norm" else Residual.ZERO, Units.SILENT_NEXT)
    if growth.width == "zero_pad" and growth.scaled:
        return WidthOperator(Residual.ZERO, Units.SILENT)
    return _OPERATORS[growth.width]


_OPERATORS = {
    "fpi": WidthOperator(Residual.COPY, Units.COPY),
    "aki": WidthOperator(Residual.COPY, Units.COPY, next_layer=True),
    "nai": WidthOperator(Residual.COPY, Units.COPY),
    "hypercloning": WidthOperator(Residual.COPY, Units.COPY),
    "sqrt_count": WidthOperator(Residual.SQRT_COPY, Units.COPY),
    "average_pad": WidthOperator(Residual.MEAN_OF_COPIES, Units.COPY),
    "zero_pad": WidthOperator(Residual.SMALL, Units.SMALL),
    "direct_copy": WidthOperator(Residual.INIT, Units.INIT),
}


def residual_sides(operator: WidthOperator, axis_map: AxisMap, family: Family) -> Mapping[str, Side]:
    """Return the residual stream's sides: out, in, and a norm's gain and bias, final ones included.

    Raises UserError for square-root counts where a norm overwrites what they scale.
    """
    old, new = axis_map.source_size, len(axis_map.indices)
    if not axis_map.grows:
        return dict.fromkeys(("out", "in", "gain", "bias", "final_gain", "final_bias"), Side.identity(old))
    rule = operator.residual
    if rule in (Residual.SMALL, Residual.INIT):
        code = SMALL if rule is Residual.SMALL else INIT
        padded, norm = _corner(old, new, code), _corner(old, new, INIT)
        return {"out": padded, "in": padded, "gain": norm, "bias": norm, "final_gain": norm, "final_bias": norm}
    if rule is Residual.SQRT_COPY and not (family.pre_norm or axis_map.balanced):
        raise UserError(
            f"growth.width: sqrt_count scales what is written into the residual stream, and the norms of a post-LN model "
            f"({family.name}) overwrite that at {old} -> {new}; choose a multiple of {old}, or fpi"
        )

    indices, counts = axis_map.indices, axis_map.counts
    written = read = gain = bias = indices
    if rule in (Residual.MEAN_OF_COPIES, Residual.MEAN, Residual.ZERO):
        whole = new // old if rule is Residual.MEAN_OF_COPIES else 1
        copied = torch.arange(new) < whole * old
        indices = torch.arange(new) % old
        counts = torch.where(copied, float(whole), 1.0).double()
        written = torch.where(copied, indices, ZERO if rule is Residual.ZERO else MEAN)
        # New channels that the norm turns to 0 may have any readers: random ones learn from the start.
        silent = family.pre_norm and (rule is Residual.ZERO) == (family.norm == "rms_norm")
        read = torch.where(copied, indices, INIT if silent else ZERO)
        gain = torch.where(copied, indices, INIT)
        # A post-LN model's norm writes the stream itself: its new channels are to hold the mean, as the others do.
        bias = torch.where(copied, indices, INIT if family.pre_norm or rule is Residual.ZERO else MEAN)
        # Scaled writers keep the variance that the norm takes, and eps beside it, what they were.
        scale = torch.full((new,), math.sqrt(new / (whole * old)), dtype=torch.float64)
    elif rule is Residual.SQRT_COPY:
        scale = (new / old / counts).sqrt()
    else:
        scale = torch.ones(new, dtype=torch.float64)
    # A post-LN stream is written by the norms, so there is no writer to scale: only the statistics are put right.
    writer = scale if family.pre_norm else torch.ones_like(scale)
    next_layer = ~axis_map.own if operator.next_layer else None
    repeats = ~axis_map.own
    return {
        "out": Side(written, writer, counts, repeats, next_layer),
        "in": Side(read, 1 / counts, counts, repeats),
        "gain": Side(gain, 1 / scale, counts, repeats),
        "bias": Side(bias, None, counts, repeats),
        "final_gain": Side(gain, 1 / (scale * writer * counts), counts, repeats),
        "final_bias": Side(bias, 1 / (writer * counts), counts, repeats),
    }


def unit_sides(operator: WidthOperator, axis_map: AxisMap) -> Mapping[str, Side]:
    """Return the sides, out and in, of FFN units or of heads (an index a head)."""
    if not axis_map.grows:
        return dict.fromkeys(("out", "in"), Side.identity(axis_map.source_size))
    sides = _grown_units(operator, axis_map)
    # The copies of a split key-value head serve different queries, and do not share its gradient alike.
    return {use: side.starting_fresh() for use, side in sides.items()} if axis_map.splits else sides


def _grown_units(operator: WidthOperator, axis_map: AxisMap) -> dict[str, Side]:
    indices, own, counts = axis_map.indices, axis_map.own, axis_map.counts
    if operator.units is Units.COPY:
        next_layer = ~own if operator.next_layer else None
        return {"out": Side(indices, None, counts, ~own, next_layer), "in": Side(indices, 1 / counts, counts, ~own)}
    if operator.units in (Units.SMALL, Units.INIT):
        padded = Side(torch.where(own, indices, SMALL if operator.units is Units.SMALL else INIT), None, None, ~own)
        return {"out": padded, "in": padded}
    # Zero writers keep the function; readers that are not zero let them learn.
    silent = Side(torch.where(own, indices, ZERO), None, None, ~own)
    if operator.units is Units.SILENT:
        return {"out": Side(torch.where(own, indices, INIT), None, None, ~own), "in": silent}
    return {"out": Side(indices, None, None, ~own, ~own), "in": silent}


def head_channels(
    operator: WidthOperator, heads: Mapping[str, Side], family: Family, source: Sizes, target: Sizes, paper_factor: bool
) -> Mapping[tuple[str, str], Side]:
    """Return the sides of attention's channels by (part, role), and of the gains of query and key norms.

    A head whose dimension grows from d to d' keeps its function: queries and keys are multiplied by
    (d'/d)^(1/4), since scores are divided by sqrt(d'), and new channels add nothing to a score or to
    what is written. Rotary pairs keep their frequencies: pair i becomes pair i d'/d.
    """
    old, new = source.head_dim, target.head_dim
    factor = query_key_factor(source, target, paper_factor)
    first = torch.where(torch.arange(new) < old, torch.arange(new), -1)
    turned, repeated = _rotary_places(old, new) if family.rotary else (first, first)
    out, into, norm = heads["out"], heads["in"], Side.identity(1)
    if operator.units in (Units.SMALL, Units.INIT):
        fill = SMALL if operator.units is Units.SMALL else INIT
        sides = {
            ("query", "out"): out.blocks(old, turned, fill),
            ("key", "out"): out.blocks(old, turned, fill),
            ("query", "gain"): norm.blocks(old, turned, INIT),
            ("key", "gain"): norm.blocks(old, turned, INIT),
            ("value", "out"): out.blocks(old, first, fill),
            ("value", "in"): into.blocks(old, first, fill),
        }
    else:
        # A norm over a head's channels stays what it was where all of them are repeated alike; its gains then
        # do what the rows do without one: the key's new channels are zero and add nothing to a score.
        normed = family.query_key_norm
        sides = {
            ("query", "out"): out.blocks(old, repeated, INIT) if normed else out.blocks(old, turned, INIT),
            ("key", "out"): out.blocks(old, repeated, INIT) if normed else out.blocks(old, turned, ZERO),
            ("query", "gain"): norm.blocks(old, repeated, INIT),
            ("key", "gain"): norm.blocks(old, turned, ZERO),
            ("value", "out"): out.blocks(old, first, INIT),
            ("value", "in"): into.blocks(old, first, ZERO),
        }
    if operator.units in (Units.SMALL, Units.INIT):
        factor = 1.0
    elif family.query_key_norm and new > old:
        # Of channels that are repeated alike only some reach a score.
        for part in ("query", "key"):
            for use in ("out", "gain"):
                sides[part, use] = sides[part, use].starting_fresh()
    scaled = "gain" if family.query_key_norm else "out"
    return {
        (part, use): side.times(factor) if use == scaled and part != "value" else side for (part, use), side in sides.items()
    }


def query_key_factor(source: Sizes, target: Sizes, paper_factor: bool) -> float:
    """Return what queries and keys are each multiplied by, so that their product, over sqrt(d_k), stays: (d'/d)^(1/4).

    The paper's is (D'/D)^(1/4) (NAI eq. 14), which fits scores over sqrt(D).
    """
    if paper_factor:
        return (target.hidden_size / source.hidden_size) ** 0.25
    return (target.head_dim / source.head_dim) ** 0.25


def _rotary_places(old: int, new: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the source channel of each channel of a rotary head: only where the pair's frequency is the same, and throughout.

    Pairs are half-split, (i, i + d/2). Frequency i of d is frequency i d'/d of d'.
    """
    ratio = new // old
    pair, half = torch.arange(new) % (new // 2), torch.arange(new) // (new // 2)
    throughout = pair // ratio + half * (old // 2)
    return torch.where(pair % ratio == 0, throughout, -1), throughout


def _corner(old: int, new: int, code: int) -> Side:
    indices = torch.arange(new)
    return Side(torch.where(indices < old, indices, code), None, None, indices >= old)
