"""A second growth, written from the papers with whole matrices, to hold the engine against.

Everything is dense float64 and `nn.Linear`'s [out, in]. A matrix grows as `E W R^T + fresh`: row j of `E` says what
target output j is made of, row i of `R` how much of each source input it reads, and `fresh` are the values of new
elements that the source does not determine. No code of the engine takes part but the random draws themselves
(`initialized`, `keyed`), since only where they are put is in question.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.common import keyed
from pipeline.families import family_of, sizes_of
from pipeline.growth.initialization import initialized
from pipeline.recipe import GrowthConfig
from tests.pipeline.growth.tensor_roles import join, role_of, split

Tensors = dict[str, Tensor]
Maps = Mapping[str, Sequence[int]]
"""The maps that were drawn, by axis: residual (channels), heads, kv_heads (heads), ffn (units)."""


_MATRICES = {
    "q": ("query", "read"),
    "k": ("key", "read"),
    "v": ("value", "read"),
    "o": ("write", "mix"),
    "up": ("units", "read"),
    "down": ("write", "unit_columns"),
    "transform": ("transform", "read"),
    "pool": ("pooled", "read"),
    "pair": ("pair", "pooled_columns"),
}
"""Which sides of the design a matrix has: of its rows, which its bias has too, and of its columns."""
_LAYER = re.compile(r"(\.(?:h|layer|layers)\.)(\d+)\.")
_POSITIONS_BEFORE_THE_FIRST = {"roberta": 2}


def at_layer(name: str, number: int) -> str:
    """The name of the same tensor of another layer."""
    return _LAYER.sub(rf"\g<1>{number}.", name)


def copies(g: Sequence[int], size: int) -> Tensor:
    """The matrix whose row i is the unit vector of g(i)."""
    matrix = torch.zeros(len(g), size, dtype=torch.float64)
    matrix[range(len(g)), list(g)] = 1
    return matrix


def counts(matrix: Tensor) -> Tensor:
    """C of bert2BERT eq. 7, for each target index: how many share its source."""
    return matrix @ matrix.sum(0)


def repeats(g: Sequence[int]) -> Tensor:
    """Which indices are not the first copy of their source."""
    return torch.tensor([index in g[:place] for place, index in enumerate(g)])


def channels(head_map: Sequence[int], width: int) -> list[int]:
    """A map of heads as a map of their channels."""
    return [head * width + channel for head in head_map for channel in range(width)]


def neighbours(target: int, source: int, how: str) -> list[int]:
    """NAI 3.3.1: the last n, in order (`block`), or the last one n times (`last`)."""
    new = target - source
    if how == "last":
        return [*range(source), *[source - 1] * new]
    reach = min(new, source)
    return [*range(source), *[source - reach + j % reach for j in range(new)]]


@dataclass
class Side:
    """What the target's indices along one axis of a matrix are made of."""

    own: Tensor
    """[target, source]"""
    above: Tensor | None = None
    """[target, source]: rows that come from the source's next layer."""
    fresh: Tensor | None = None
    """[target]: elements at the initial draw."""
    zero: Tensor | None = None
    """[target]: elements that are zero, even where the other side is fresh."""

    def __post_init__(self) -> None:
        nowhere = torch.zeros(self.own.shape[0], dtype=torch.bool)
        self.above = torch.zeros_like(self.own) if self.above is None else self.above
        self.fresh = nowhere if self.fresh is None else self.fresh
        self.zero = nowhere if self.zero is None else self.zero


def product(out: Side, w: Tensor, above: Tensor, into: Side, fresh: Tensor) -> Tensor:
    """E W R^T, rows of the next layer added, and the initial draw where either side says so."""
    grown = (out.own @ w + out.above @ above) @ into.own.T
    put = out.fresh[:, None] | into.fresh[None, :]
    put = put & ~out.zero[:, None] & ~into.zero[None, :]
    assert not grown[put].any(), "a new element that the source has a value for"
    return grown + torch.where(put, fresh, 0.0)


def vector(out: Side, v: Tensor, above: Tensor, fresh: Tensor) -> Tensor:
    grown = out.own @ v + out.above @ above
    return torch.where(out.fresh & ~out.zero, fresh, grown)


@dataclass
class Norm:
    """gain' = gains @ gain + new_gain, and the same for the bias."""

    gains: Tensor
    shifts: Tensor
    new_gain: Tensor


def layer_plan(growth: GrowthConfig, source: int, target: int) -> list[tuple[int | None, bool]]:
    """(source layer or None for a new one, whether it writes nothing) for each layer of the target."""
    if growth.depth == "stack":  # bert2BERT algorithm 1
        k = target // source
        top = target - k * source
        return [(layer, False) for layer in [*range(source)] * k + [*range(source - top, source)]]
    if growth.depth == "last_layer":  # NAI algorithm 1
        return [(min(layer, source - 1), layer >= source) for layer in range(target)]
    if growth.depth == "random":
        return [(layer if layer < source else None, False) for layer in range(target)]
    if growth.depth == "interleave":
        origins = [math.floor(layer * source / target) for layer in range(target)]
        return [(origin, layer > 0 and origins[layer - 1] == origin) for layer, origin in enumerate(origins)]
    if growth.depth == "midas":  # Saunshi et al. 2024, doubling as often as that leaves fewer than the target's
        layers = [*range(source)]
        while len(layers) < target:
            size = min(target - len(layers), len(layers))
            blocks = [layers[start : start + size] for start in range(0, len(layers) - size + 1, size)]
            middle = math.ceil(len(blocks) / 2)
            layers = [*itertools.chain(*blocks[:middle]), *blocks[middle - 1], *layers[middle * size :]]
        return [(layer, False) for layer in layers]
    assert growth.depth == "list"
    return [(layer, False) for layer in growth.layers]


class Reference:
    """One growth: the sides of every axis, and what they make of the source's tensors."""

    def __init__(self, model: PreTrainedModel, target: PretrainedConfig, growth: GrowthConfig, seed: int, drawn: Maps) -> None:
        """`drawn` are the random maps, if any."""
        self.family = target.model_type
        self.small, self.large, self.growth = sizes_of(model.config), sizes_of(target), growth
        self.tied = target.tie_word_embeddings
        self.post_norm = self.family in ("bert", "roberta")
        self.layer_norm = self.family in ("gpt2", "bert", "roberta")
        self.rotary = not self.layer_norm
        self.drawn = drawn
        self.stored = {name: tensor.double() for name, tensor in model.state_dict().items()}
        self.origins = layer_plan(growth, self.small.num_hidden_layers, self.large.num_hidden_layers)
        state = initialized(family_of(target), target, seed)
        whole = {name: tensor.rows(0, tensor.shape[0]).double() for name, tensor in state.items()}
        if growth.width == "zero_pad" and not growth.scaled:
            # The random rows of a new layer stay the initialization's.
            self.small_values = split(self.family, {name: self._small(name, tensor, seed) for name, tensor in whole.items()})
        self.fresh = split(self.family, whole)
        self.source = split(self.family, self.stored)

    def _small(self, name: str, like: Tensor, seed: int) -> Tensor:
        layer = _LAYER.search(name)
        if like.dim() == 1 or (layer and self.origins[int(layer[2])][0] is None):
            return torch.zeros_like(like)
        draw = torch.from_numpy(keyed.normal(("growth", seed, name), 0, like.numel())).double().reshape(like.shape)
        origin = at_layer(name, self.origins[int(layer[2])][0]) if layer else name
        return draw * self.growth.noise * self.stored[origin].std()

    # -- maps ---------------------------------------------------------------------------------------------------------

    def _map(self, axis: str, target: int, source: int, block: int = 1) -> list[int]:
        """The map of an axis in blocks of `block`; NAI's are one head wide."""
        if axis in self.drawn:
            return list(self.drawn[axis])
        if self.growth.width == "nai":
            return channels(neighbours(target // block, source // block, self.growth.neighbours), block)
        return [j % source for j in range(target)]

    def _head_maps(self) -> tuple[list[int], list[int], Tensor]:
        """(query heads, key-value heads, which key-value heads are new).

        The query heads of a target's group copy one source group's in turn. Where groups are smaller than the
        source's, a source group first falls apart into groups of that size, each with the key-value head that they shared.
        """
        old, new = (sizes.num_attention_heads // sizes.num_key_value_heads for sizes in (self.small, self.large))
        parts = max(1, old // new)
        size = old // parts
        groups = self._map("groups", self.large.num_key_value_heads, self.small.num_key_value_heads * parts)
        if "heads" in self.drawn:
            return list(self.drawn["heads"]), list(self.drawn["kv_heads"]), repeats(self.drawn["kv_heads"])
        within = self._map("group", new, size)
        added = torch.arange(self.large.num_key_value_heads) >= self.small.num_key_value_heads * parts
        return [group * size + place for group in groups for place in within], [group // parts for group in groups], added

    # -- sides --------------------------------------------------------------------------------------------------------

    def design(self) -> dict[str, Side | Norm]:
        """How each axis of the network grows.

        Rows: of what is added to the residual stream (write), of BERT's transform before the output matrix (transform), of
        its pooler, whose tanh no norm follows (pooled), of queries, keys and values, of the FFN's first matrices (units).
        Columns: what reads the stream (read), the heads (mix), the units (unit_columns) and the pooler (pooled_columns).
        """

        def of(axis: str, key: str) -> tuple[Side, Side]:
            target, source = (getattr(sizes, key) for sizes in (self.large, self.small))
            return self._units(self._map(axis, target, source, self.small.head_dim), source)

        ffn, pooled = of("ffn", "intermediate_size"), of("residual", "hidden_size")
        others = {"pooled": pooled[0], "pooled_columns": pooled[1], "units": ffn[0], "unit_columns": ffn[1]}
        return self._residual() | self._attention() | others | {"pair": Side(torch.eye(2, dtype=torch.float64))}

    def _residual(self) -> dict[str, Side | Norm]:
        small, large, width = self.small.hidden_size, self.large.hidden_size, self.growth.width
        kind = width
        if width == "exact_aki":
            kind = "copy" if self.post_norm else "average_pad" if self.layer_norm else "zero_pad"
        if self._pads:
            corner = torch.eye(large, small, dtype=torch.float64)
            new = torch.arange(large) >= small
            norm = Norm(corner, corner, new.double())
            side = Side(corner, fresh=new)
            return {"write": side, "transform": side, "read": side, "gain": norm, "final": norm}
        if kind in ("average_pad", "zero_pad"):
            return self._padded(kind, 1 if width in ("exact_aki", "zero_pad") else large // small)
        g = self._map("residual", large, small, self.small.head_dim)
        e = copies(g, small)
        c = counts(e)[:, None]
        above = torch.zeros_like(e)
        written = e
        nothing = torch.zeros(large, dtype=torch.float64)
        norm, final = Norm(e, e, nothing), Norm(e, e, nothing)
        if width == "aki":
            new = repeats(g)[:, None]
            written, above = torch.where(new, 0.0, e), torch.where(new, e, 0.0)
        if width == "sqrt_count" and not self.post_norm:
            s = math.sqrt(large / small)
            written = s * e / c.sqrt()
            norm = Norm(e * c.sqrt() / s, e, nothing)
            final = Norm(e / s**2, e / (s * c.sqrt()), nothing) if self.tied else norm
        elif self.tied:
            final = Norm(e / c, e / c, nothing)
        return {"write": Side(written, above), "transform": Side(e), "read": Side(e / c), "gain": norm, "final": final}

    def _padded(self, kind: str, k: int) -> dict[str, Side | Norm]:
        """LEMON's average padding and the zero padding that the norms do not see; k whole copies, then the rest."""
        small, large = self.small.hidden_size, self.large.hidden_size
        rest = large - k * small
        new = torch.arange(large) >= k * small
        copied = torch.cat([torch.eye(small, dtype=torch.float64)] * k + [torch.zeros(rest, small, dtype=torch.float64)])
        filling = torch.full((large, small), 1 / small if kind == "average_pad" else 0.0, dtype=torch.float64)
        padded = torch.where(new[:, None], filling, copied)
        s = math.sqrt(large / (k * small))
        written = padded if self.post_norm else s * padded
        drawn = (kind == "average_pad" and self.layer_norm) or (kind == "zero_pad" and not self.layer_norm)
        new_shifts = padded - copied if self.post_norm else torch.zeros_like(copied)
        norm = Norm(copied / s, copied + new_shifts, new.double())
        final = norm
        if self.tied:
            w = 1 if self.post_norm else s
            final = Norm(copied / (s * w * k), copied / (w * k) + new_shifts, new.double())
        reads_draw = drawn and not self.post_norm
        read = Side(copied / k, fresh=new if reads_draw else None, zero=None if reads_draw else new)
        return {"write": Side(written), "transform": Side(padded), "read": read, "gain": norm, "final": final}

    def _units(self, g: Sequence[int], source: int, new: Tensor | None = None) -> tuple[Side, Side]:
        """Rows that make units (or whole heads' channels) and columns that read them."""
        new = repeats(g) if new is None else new
        e = copies(g, source)
        kept = torch.where(new[:, None], 0.0, e)
        width = self.growth.width
        if self._pads:
            return Side(kept, fresh=new), Side(kept, fresh=new)
        if width == "zero_pad":
            return Side(kept, fresh=new), Side(kept, zero=new)
        if width == "exact_aki":
            return Side(kept, e - kept), Side(kept, zero=new)
        readers = Side(e / counts(e)[:, None])
        return (Side(kept, e - kept) if width == "aki" else Side(e)), readers

    def _attention(self) -> dict[str, Side]:
        d, wide = self.small.head_dim, self.large.head_dim
        query, key, mix = self._heads()
        value = key
        if wide > d:
            turned = self.rotary_places() if self.rotary else list(range(d))
            closed = "fresh" if self._pads else "zero"
            query = self._widen(query, turned, self.large.num_attention_heads, "fresh")
            key = self._widen(key, turned, self.large.num_key_value_heads, closed)
            value = self._widen(value, list(range(d)), self.large.num_key_value_heads, "fresh")
            mix = self._widen(mix, list(range(d)), self.large.num_attention_heads, closed)
        query, key = (Side(s.own * self._factor, s.above * self._factor, s.fresh, s.zero) for s in (query, key))
        return {"query": query, "key": key, "value": value, "mix": mix}

    def _heads(self) -> tuple[Side, Side, Side]:
        """Queries, keys and values, and what reads the heads, before heads widen."""
        heads, kv_heads, added = self._head_maps()
        d = self.small.head_dim
        query, mix = self._units(channels(heads, d), self.small.num_attention_heads * d)
        key, _ = self._units(channels(kv_heads, d), self.small.num_key_value_heads * d, added.repeat_interleave(d))
        return query, key, mix

    @property
    def _pads(self) -> bool:
        return self.growth.width in ("direct_copy", "zero_pad") and not self.growth.scaled

    @property
    def _factor(self) -> float:
        """What queries and keys are multiplied by."""
        if self._pads:
            return 1.0  # DirectCopy and zero padding place the source and change none of it
        size = "hidden_size" if self.growth.paper_factor else "head_dim"  # NAI eq. 14 in the place of the other
        return (getattr(self.large, size) / getattr(self.small, size)) ** 0.25

    def rotary_places(self) -> list[int]:
        """Where a head's channels go so that each half-split pair keeps its frequency: pair i to pair i d'/d."""
        d, wide = self.small.head_dim, self.large.head_dim
        pairs = [i * wide // d for i in range(d // 2)]
        return [*pairs, *[place + wide // 2 for place in pairs]]

    def _widen(self, side: Side, places: list[int], heads: int, rest: str) -> Side:
        """Each head's channels at `places` of a wider head; the others fresh or zero."""
        d, wide = self.small.head_dim, self.large.head_dim
        rows = torch.tensor([head * wide + place for head in range(heads) for place in places])

        def spread(old: Tensor, filling: float | bool) -> Tensor:
            new = torch.full((heads * wide, *old.shape[1:]), filling, dtype=old.dtype)
            new[rows] = old
            return new

        assert len(places) == d
        # A head that is drawn is drawn whole: its old and new channels do not differ.
        drawn = side.fresh[::d].repeat_interleave(wide)
        return Side(
            spread(side.own, 0.0),
            spread(side.above, 0.0),
            spread(side.fresh, rest == "fresh") | drawn,
            spread(side.zero, rest == "zero") & ~drawn,
        )

    # -- tensors ------------------------------------------------------------------------------------------------------

    def grown(self) -> Tensors:
        """Return the grown model's tensors under Hugging Face's names, float64."""
        design = self.design()
        plain = {}
        for name in self.fresh:
            layer = _LAYER.search(name)
            if layer is None:
                plain[name] = self._tensor(design, name, self.source[name], self.source[name])
                continue
            origin, zero = self.origins[int(layer[2])]
            if origin is None:
                plain[name] = self.fresh[name]
                continue
            own, above = (at_layer(name, of) for of in (origin, min(origin + 1, self.small.num_hidden_layers - 1)))
            role = role_of(self.family, name)
            if zero and self.post_norm and role in ("gain", "shift"):
                # What comes in has the mean of the lower norm's shifts, and on average this variance.
                below = re.sub(r"(attention\.)?output\.LayerNorm\.\w+$", "output.LayerNorm.", own)
                gain, shift = self.source[below + "weight"], self.source[below + "bias"]
                variance = (gain.square() + (shift - shift.mean()).square()).mean()
                flat = torch.full_like(gain, (shift.mean() if role == "shift" else variance.sqrt()).item())
                plain[name] = self._tensor(design, name, flat, flat)
                continue
            plain[name] = self._tensor(design, name, self.source[own], self.source[above])
            if zero and role in ("o", "o_bias", "down", "down_bias"):
                plain[name] = torch.zeros_like(plain[name])
        return join(self.family, plain)

    def _tensor(self, design: dict[str, Side | Norm], name: str, w: Tensor, above: Tensor) -> Tensor:
        role = role_of(self.family, name)
        fresh = self.fresh[name]
        if self._pads and self.growth.width == "zero_pad":
            random_words = role in ("words", "logits") and self.growth.vocabulary == "random"
            known = self.small.vocab_size if random_words else None
            fresh = torch.cat([self.small_values[name][:known], fresh[len(fresh) if known is None else known :]])
        if role in ("q_gain", "k_gain") or (role in ("q", "k") and "q_gain" in self._roles() and not self._pads):
            return self._normed(design, role, w, above, fresh)
        if role in _MATRICES:
            out, into = (design[side] for side in _MATRICES[role])
            return product(out, w, above, into, fresh)
        if role.removesuffix("_bias") in _MATRICES:
            return vector(design[_MATRICES[role.removesuffix("_bias")][0]], w, above, fresh)
        norm = design["final" if role.startswith("final") else "gain"]
        if role in ("gain", "final_gain"):
            return norm.gains @ w + norm.new_gain
        if role in ("shift", "final_shift"):
            return norm.shifts @ w
        rows = self._rows(role, w.shape[0])
        if role == "logits_bias":
            return vector(rows, w, w, fresh)
        embedded = Side(design["write"].own + design["write"].above, fresh=design["write"].fresh)
        return product(rows, w, w, design["read"] if role == "logits" else embedded, fresh)

    def _roles(self) -> set[str]:
        return {role_of(self.family, name) for name in self.fresh}

    def _normed(self, design: dict[str, Side | Norm], role: str, w: Tensor, above: Tensor, fresh: Tensor) -> Tensor:
        """Queries and keys that are normalized over a head's channels (Qwen3): only the gain can carry a factor.

        In a wider head every row stands at all pairs of its frequency's group, so that the mean square is what it was;
        the key's gain keeps one of them.
        """
        d, wide = self.small.head_dim, self.large.head_dim
        times = wide // d
        within = [half * d // 2 + pair for half in range(2) for pair in range(d // 2) for _ in range(times)]
        if role in ("q_gain", "k_gain"):
            if role == "q_gain" and not self._pads:
                return w[within] * self._factor
            gain = torch.full((wide,), 1.0 if self._pads else 0.0, dtype=torch.float64)
            gain[self.rotary_places()] = w * self._factor
            return gain
        side = self._heads()[0 if role == "q" else 1]
        target = self.large.num_attention_heads if role == "q" else self.large.num_key_value_heads
        every = torch.tensor([head * d + place for head in range(target) for place in within])
        return product(Side(side.own[every], side.above[every], side.fresh[every]), w, above, design["read"], fresh)

    def _rows(self, role: str, source: int) -> Side:
        """Rows of tables: words (and logits), positions, segments."""
        kept = torch.eye(source, dtype=torch.float64)
        if role == "segments":
            return Side(kept)
        if role == "positions":
            return Side(self._positions(source))
        added = self.large.vocab_size - source
        if self.growth.vocabulary == "random":
            new = torch.zeros(added, source, dtype=torch.float64)
            return Side(torch.cat([kept, new]), fresh=torch.arange(self.large.vocab_size) >= source)
        return Side(torch.cat([kept, torch.full((added, source), 1 / source, dtype=torch.float64)]))

    def _positions(self, source: int) -> Tensor:
        before = _POSITIONS_BEFORE_THE_FIRST.get(self.family, 0)
        old, new = source - before, self.large.max_position_embeddings - before
        if self.growth.positions == "copy":
            return copies([*range(before), *[before + place % old for place in range(new)]], source)
        table = torch.nn.functional.interpolate(
            torch.eye(old, dtype=torch.float64)[None], size=new, mode="linear", align_corners=True
        )[0].T
        return torch.block_diag(torch.eye(before, dtype=torch.float64), table)
