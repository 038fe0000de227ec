"""What a width operator makes of each port, as index maps.

The scales: with whatever writes the residual stream multiplied by a, and C copies read at 1 / (a C) each, a norm's gain is
divided by a, and a final norm before a tied output matrix has gain / (a^2 C), bias / (a C).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from pipeline.common.errors import UserError
from pipeline.families.graph import Attention, Model
from pipeline.families.primitives import Rotary
from pipeline.families.tensors import RESIDUAL, STREAM, Axis
from pipeline.growth.facts import Fact
from pipeline.growth.index_map import INIT, MEAN, SMALL, ZERO, AxisIndexMap
from pipeline.growth.port_maps import PortMap
from pipeline.operators.base import Content, Stream, Units
from pipeline.recipe import GrowthConfig

_FILLS = {Stream.SMALL: SMALL, Stream.INIT: INIT, Units.SMALL: SMALL, Units.INIT: INIT}
"""What stands in every place of new indices where nothing is done to keep the function."""


@dataclass(frozen=True, slots=True)
class HeadMaps:
    """What attention's heads are made of, channel by channel."""

    rows: Mapping[str, AxisIndexMap]
    """Of queries, keys and values."""
    gains: Mapping[str, AxisIndexMap]
    """Of a norm over each head's queries or keys."""


@dataclass(frozen=True)
class AxisRules:
    """One operator between two models."""

    source: Model
    target: Model
    growth: GrowthConfig
    operator: Content
    maps: Mapping[str, PortMap]
    """By port."""
    position_offset: int
    """Rows before position 0 of a table of positions."""
    tokens: AxisIndexMap
    """Rows of the vocabulary's tables."""
    copies_experts: bool = False
    """Whether several experts are made of the same one, so that new units of theirs are to differ."""

    def rows(self, port: str) -> AxisIndexMap:
        """Rows of a table of that port."""
        if port == "vocab":
            return self.tokens
        old, new, offset = self.source.sizes[port], self.target.sizes[port], self.position_offset
        index = torch.arange(new)
        if port != "positions":
            return AxisIndexMap(torch.where(index < old, index, INIT))
        # The source's positions again where they end. No text within the old length reaches the new rows: borrowed momentum
        # would move them all the same.
        again, added = offset + (index - offset) % (old - offset), index >= old
        return AxisIndexMap(torch.where(added, again, index), repeats=added, fresh=added)

    # --- the residual stream ----------------------------------------------------------------------

    def stream(self) -> AxisIndexMap:
        """Rows of whatever writes the residual stream.

        Raises UserError for square-root counts where a norm overwrites what they scale.
        """
        axis_map, rule = self.maps[RESIDUAL], self.operator.stream
        old, new = axis_map.source_size, len(axis_map.indices)
        if not axis_map.grows:
            return AxisIndexMap.identity(old)
        index = torch.arange(new)
        if rule in _FILLS:
            return AxisIndexMap(torch.where(index < old, index, _FILLS[rule]), repeats=index >= old)
        # A norm that ends a branch overwrites the stream, and no writer can be scaled: only its statistics are put right.
        scaled = not self.target.writes_by_norms
        next_layer = ~axis_map.own if self.operator.next_layer else None
        if rule in (Stream.MEAN_OF_COPIES, Stream.MEAN, Stream.ZERO):
            whole = new // old if rule is Stream.MEAN_OF_COPIES else 1
            copied = index < whole * old
            # Scaled writers keep the variance that the norm takes, and eps beside it, what they were.
            scale = torch.full((new,), math.sqrt(new / (whole * old)) if scaled else 1.0, dtype=torch.float64)
            counts = torch.where(copied, float(whole), 1.0).double()
            places = torch.where(copied, index % old, ZERO if rule is Stream.ZERO else MEAN)
            return AxisIndexMap(places, scale, counts, ~axis_map.own, next_layer)
        if rule is Stream.SQRT_COPY and not scaled and not axis_map.balanced:
            raise UserError(
                "growth.width: sqrt_count scales what is written into the residual stream, and the norms of a post-LN model "
                f"overwrite that at {old} -> {new}; choose a multiple of {old}, or fpi"
            )
        scale = torch.ones(new, dtype=torch.float64)
        if rule is Stream.SQRT_COPY and scaled:
            scale = (new / old / axis_map.counts).sqrt()
        return AxisIndexMap(axis_map.indices, scale, axis_map.counts, ~axis_map.own, next_layer)

    def norm(
        self, normed: Fact, wanted: AxisIndexMap | None, read_by: AxisIndexMap | None
    ) -> tuple[AxisIndexMap, AxisIndexMap, Fact]:
        """Gain and bias of a norm over the stream, and what it gives.

        Copies are at scale 1, at `wanted`'s, or such that `read_by` reads 1.
        """
        if normed.is_identity and not self._filled(STREAM):
            own = AxisIndexMap.identity(normed.source_size)
            return own, own, normed
        counts = normed.counts
        out = torch.ones_like(normed.scale) if wanted is None else wanted.factors
        gain = out / normed.scale
        if read_by is not None and self.operator.stream not in _FILLS:
            out, gain = 1 / (read_by.factors * counts), 1 / (normed.scale * read_by.factors * counts)
        repeats = self._repeats(STREAM)
        # Where zero comes in, or what nothing is done about, the gain is free.
        index = torch.where(normed.copied, normed.index, INIT)
        shift = index
        if wanted is not None:
            # A norm that writes the stream leaves its new channels at the mean, as the others are.
            shift = torch.where(~normed.copied & (wanted.indices == MEAN), MEAN, index)
        given = torch.where(shift == MEAN, MEAN, normed.index)
        copies = None if self.operator.stream in _FILLS else counts
        return (
            AxisIndexMap(index, gain, copies, repeats),
            AxisIndexMap(shift, out, copies, repeats),
            Fact(given, out, normed.source_size),
        )

    def reader(self, axis: Axis, x: Fact) -> AxisIndexMap:
        """Columns that read what comes in: 1 / (a C) of copies, free where zeros come in, nothing of all else."""
        if x.is_identity:
            return AxisIndexMap.identity(x.source_size)
        repeats = self._repeats(axis)
        fill = self._filled(axis)
        if fill is not None:
            return AxisIndexMap(torch.where(x.copied, x.index, fill), repeats=repeats)
        places = torch.where(x.copied, x.index, torch.where(x.index == ZERO, INIT, ZERO))
        counts = x.counts
        if self.operator.zero_output_units and RESIDUAL not in axis.ports and not x.scaled and bool((counts == 1).all()):
            return AxisIndexMap(places, repeats=repeats)
        return AxisIndexMap(places, 1 / (x.scale * counts), counts, repeats)

    def _filled(self, axis: Axis) -> int | None:
        """What stands in new places of an axis where nothing is done to keep the function; None where it is kept."""
        if RESIDUAL in axis.ports:
            return _FILLS.get(self.operator.stream) if self.maps[RESIDUAL].grows else None
        return _FILLS.get(self.operator.units)

    def _repeats(self, axis: Axis) -> torch.Tensor:
        """Which indices of an axis the source does not have."""
        (part,) = axis.parts
        port, *channels = part.ports
        own = self._map(port).own
        if not channels:
            return ~own
        old, new = (model.sizes[channels[0]] for model in (self.source, self.target))
        return ~own.repeat_interleave(new) | (torch.arange(new) >= old).repeat(len(own))

    def _map(self, port: str) -> PortMap:
        return self.maps[RESIDUAL if port == "pooled" else port]

    def latent(self, port: str) -> AxisIndexMap:
        """Rows of what writes a latent, whose norm goes over it alone: as in an RMS stream, those the source has times
        sqrt(c'/c), so that the norm's statistics stay, and zero beside them."""
        axis_map = self.maps[port]
        old, new = axis_map.source_size, len(axis_map.indices)
        if not axis_map.grows:
            return AxisIndexMap.identity(old)
        fill = _FILLS.get(self.operator.units)
        index = torch.where(axis_map.own, axis_map.indices, ZERO if fill is None else fill)
        scale = None if fill is not None else torch.full((new,), math.sqrt(new / old), dtype=torch.float64)
        return AxisIndexMap(index, scale, repeats=~axis_map.own)

    def latent_norm(self, port: str, normed: Fact) -> tuple[AxisIndexMap, Fact]:
        """The gain of a norm over a latent, and what it gives: the source's channels at scale 1."""
        if normed.is_identity:
            return AxisIndexMap.identity(normed.source_size), normed
        index = torch.where(normed.copied, normed.index, INIT)
        given = Fact(normed.index, torch.ones_like(normed.scale), normed.source_size)
        return AxisIndexMap(index, 1 / normed.scale, repeats=~self.maps[port].own), given

    def experts(self) -> AxisIndexMap:
        """Rows of a router: an expert more is a copy of one of the source's, in turn, and all of them start without moments."""
        old, new = self.source.sizes["experts"], self.target.sizes["experts"]
        index = torch.arange(new)
        rows = AxisIndexMap(index % old, repeats=index >= old)
        return rows.starting_fresh() if new > old else AxisIndexMap.identity(old)

    # --- units and heads --------------------------------------------------------------------------

    def units(self, port: str) -> AxisIndexMap:
        """Rows of units: of FFN units, of pooled channels, of heads (an index a head)."""
        axis_map = self._map(port)
        indices, own = axis_map.indices, axis_map.own
        if not axis_map.grows:
            return AxisIndexMap.identity(axis_map.source_size)
        if self.operator.units is Units.COPY:
            rows = AxisIndexMap(indices, None, axis_map.counts, ~own, ~own if self.operator.next_layer else None)
        elif self.operator.units is Units.ZERO_OUTPUT_NEXT_LAYER and not (
            self.copies_experts and port == self.target.expert_port
        ):
            rows = AxisIndexMap(indices, None, None, ~own, ~own)
        else:
            fill = _FILLS.get(self.operator.units, INIT)
            rows = AxisIndexMap(torch.where(own, indices, fill), repeats=~own)
        if not axis_map.splits:
            return rows
        # The copies of a split key-value head serve different queries, and do not share its gradient alike: on average evenly.
        parts = torch.bincount(indices[own], minlength=axis_map.source_size)[indices].double()
        return replace(rows, copies=torch.where(own, parts, 1.0) if rows.copies is None else rows.copies).starting_fresh()

    def heads(self, old: Attention, new: Attention) -> HeadMaps:
        """Rows of queries, keys and values, and the gains of norms over each head.

        A head whose dimension grows from d to d' keeps its function: queries and keys are multiplied such that their
        product times the score's factor stays, and new channels add nothing to a score or to what is written. Rotary pairs
        keep their frequencies: pair i becomes pair i d'/d.
        """
        before, width = self.source.sizes["head_dim"], self.target.sizes["head_dim"]
        first = _leading(before, width)
        turned, repeated = _rotary_places(old.rotary, new.rotary, before, width)
        span = None if new.query_norm is None else new.query_norm.span
        if span == "all" and not self.operator.fills:
            return self._heads_of_one_norm(old, new, first, turned, repeated)
        query, group, norm = self.units("heads"), self.units("kv_heads"), AxisIndexMap.identity(1)
        fill = _FILLS.get(self.operator.units)
        if fill is not None:
            rows = {"query": query.blocks(before, turned, fill), "key": group.blocks(before, turned, fill)}
            # Gains start as the model's own, and not as small values.
            gains = {
                part: replace(each, indices=torch.where(each.indices < 0, INIT, each.indices))
                for part, each in (rows if span == "all" else dict.fromkeys(rows, norm.blocks(before, turned, INIT))).items()
            }
            return HeadMaps(rows | {"value": group.blocks(before, first, fill)}, gains)
        # A norm over a head's channels stays what it was where all of them are repeated alike; its gains then do what the
        # rows do without one: the key's new channels are zero and add nothing to a score.
        normed = span == "head"
        rows = {
            "query": query.blocks(before, repeated if normed else turned, INIT),
            "key": group.blocks(before, repeated, INIT) if normed else group.blocks(before, turned, ZERO),
            "value": group.blocks(before, first, INIT),
        }
        gains = {"query": norm.blocks(before, repeated, INIT), "key": norm.blocks(before, turned, ZERO)}
        if normed and width > before:
            # Of channels that are repeated alike only some reach a score.
            rows |= _fresh({part: rows[part] for part in gains})
            gains = _fresh(gains)
        factor = self._query_key_factor(old, new)
        scaled = gains if normed else rows
        scaled |= {part: scaled[part].times(factor) for part in ("query", "key")}
        return HeadMaps(rows, gains)

    def heads_of_latents(self, old: Attention, new: Attention) -> HeadMaps:
        """The same where heads are made of latents: what positions turn and what they do not are parts of their own.

        The key that positions turn is one for all heads.
        """

        def places(port: str) -> tuple[int, torch.Tensor]:
            before = self.source.sizes[port]
            return before, _leading(before, self.target.sizes[port])

        (still, first), (values, first_values) = places("qk_nope_head_dim"), places(new.value_port)
        turning, width = self.source.sizes["qk_rope_head_dim"], self.target.sizes["qk_rope_head_dim"]
        turned, _ = _rotary_places(old.rotary, new.rotary, turning, width)
        heads, shared, fill = self.units("heads"), AxisIndexMap.identity(1), _FILLS.get(self.operator.units)
        free, added = (INIT, ZERO) if fill is None else (fill, fill)
        rows = {
            "query": heads.blocks(still, first, free),
            "query_rope": heads.blocks(turning, turned, free),
            "key": heads.blocks(still, first, added),
            "key_rope": shared.blocks(turning, turned, added),
        }
        factor = 1.0 if fill is not None else self._query_key_factor(old, new)
        rows = {part: each.times(factor) for part, each in rows.items()}
        return HeadMaps(rows | {"value": heads.blocks(values, first_values, free)}, {})

    def _heads_of_one_norm(
        self, old: Attention, new: Attention, first: torch.Tensor, turned: torch.Tensor, repeated: torch.Tensor
    ) -> HeadMaps:
        """Heads whose queries, and keys, go through one norm together: copies of h sqrt(H'/H) / sqrt(C), which it does not see.

        New heads of their own would enter its statistics, and so would new channels: as under a norm over each head, all of
        a head's are repeated alike, and the gains choose those that reach a score.
        """
        before, width = self.source.sizes["head_dim"], self.target.sizes["head_dim"]

        def copies(port: str, places: torch.Tensor, code: int = INIT, *, scaled: bool = False) -> AxisIndexMap:
            axis_map = self.maps[port]
            counts = axis_map.counts if axis_map.grows else None
            ratio = len(axis_map.indices) / axis_map.source_size
            scale = (ratio / counts).sqrt() if scaled and counts is not None else None
            heads = AxisIndexMap(axis_map.indices, scale, counts, ~axis_map.own)
            return (heads.starting_fresh() if axis_map.splits else heads).blocks(before, places, code)

        rows = {"query": copies("heads", repeated, scaled=True), "key": copies("kv_heads", repeated, scaled=True)}
        gains = {"query": copies("heads", repeated), "key": copies("kv_heads", turned, ZERO)}
        factor = self._query_key_factor(old, new)
        gains = {part: gain.times(factor) for part, gain in gains.items()}
        if width > before:
            rows, gains = _fresh(rows), _fresh(gains)
        return HeadMaps(rows | {"value": copies("kv_heads", first)}, gains)

    def _query_key_factor(self, old: Attention, new: Attention) -> float:
        """What queries and keys are each multiplied by, so that their product times the score's factor stays.

        The paper's is (D'/D)^(1/4) (NAI eq. 14), which fits scores over sqrt(D).
        """
        if self.growth.paper_factor:
            return (self.target.sizes[RESIDUAL] / self.source.sizes[RESIDUAL]) ** 0.25
        return math.sqrt(old.score / new.score)


def _leading(before: int, width: int) -> torch.Tensor:
    """Return the source channel of each channel of a head whose new ones stand behind: -1 for those."""
    index = torch.arange(width)
    return torch.where(index < before, index, -1)


def _fresh(maps: Mapping[str, AxisIndexMap]) -> dict[str, AxisIndexMap]:
    return {part: each.starting_fresh() for part, each in maps.items()}


def _rotary_places(old: Rotary | None, new: Rotary | None, before: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the source channel of each channel of a head: -1 where it is not turned alike, and then of all of them.

    Frequency i of n pairs is frequency i r of n r pairs. Channels that are not turned stand after those that are.
    """
    if old is None or new is None:
        first = _leading(before, width)
        return first, first
    ratio = width // before
    pair, half = new.pairs_of(torch.arange(new.dims))
    throughout = old.channels_of(pair // ratio, half)
    turned = torch.where(pair % ratio == 0, throughout, -1)
    still, stay = torch.arange(width - new.dims), before - old.dims
    return (
        torch.cat([turned, torch.where(still < stay, old.dims + still, -1)]),
        torch.cat([throughout, old.dims + still // ratio]),
    )
