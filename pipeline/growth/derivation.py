"""Growth derived from the graph: each node takes its index maps from what comes in, and says what goes out.

What an operator makes of each port comes from `AxisRules`; columns, gains and biases follow from what is read. Where a node
cannot give what the source gives, the break is named, and the walk goes on as if it had.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from pipeline.families.graph import (
    Attention,
    Branch,
    Experts,
    Layer,
    Mlp,
    Pooler,
    Stack,
    branch_tensors,
    head_norms,
    network_tensors,
)
from pipeline.families.primitives import Linear, Norm
from pipeline.families.tensors import RESIDUAL, STREAM, Axis, numel
from pipeline.growth import facts
from pipeline.growth.axis_rules import AxisRules
from pipeline.growth.facts import NOISE, Break, Departure, Fact
from pipeline.growth.index_map import INIT, MEAN, ZERO, AxisIndexMap, along
from pipeline.operators import Origin

Maps = tuple[AxisIndexMap, ...]
"""One a storage axis."""

_LAYER = re.compile(r"\.\d+\.")


@dataclass
class Derivation:
    """The maps of every tensor that is made of a source's, and the departures, each cause once."""

    rules: AxisRules
    origins: Sequence[Origin]
    maps: dict[str, Maps] = field(default_factory=dict)
    departures: list[Departure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source, self.target = self.rules.source, self.rules.target
        self._writer = self.rules.stream()
        self._unties = self.source.head.tied and not self.target.head.tied
        origins = iter(self.origins)
        for old, new in zip(self.source.stacks, self.target.stacks, strict=True):
            stream = self._stack(old, new, [next(origins) for _ in new.layers])
            if new is self.target.encoder:
                self._encoded = stream if new.final is None else self._norm(new.final, stream)
        self._head(stream)
        if self.target.pooler is not None:
            self._pooler(self.target.pooler, stream)
        self._depth()
        self._zero_output_layers()

    def _stack(self, old_stack: Stack, new_stack: Stack, origins: Sequence[Origin]) -> Fact:
        """What the layers of a stack give, each of which has an origin."""
        stream = self._embedded(old_stack, new_stack)
        self._added_to_scores = None
        if (table := new_stack.relative_positions) is not None:
            # A column a head, whatever the layer.
            columns = _first_layer(self.rules.units("heads"))
            self.maps[table.weight] = (self.rules.rows(table.port), columns)
            self._added_to_scores = Fact.given(columns, self.source.sizes["heads"])
        layers, old_forms = self.source.layers, {}
        seen: dict[str, list[str]] = {}
        for origin, layer in zip(origins, new_stack.layers, strict=True):
            if origin.source is None:
                continue
            old, names = layers[origin.source], _tensors(layer)
            # Layers that are alike in all but their number come to the same.
            if origin.source not in old_forms:
                old_forms[origin.source] = _LAYER.sub(".", repr(old))
            form = old_forms[origin.source] + _LAYER.sub(".", repr(layer))
            if form in seen:
                pairs = zip(seen[form], names, strict=True)
                self.maps |= {tensor: self.maps[known] for known, tensor in pairs if known in self.maps}
                continue
            if old.form != layer.form and not origin.zero_output:
                self._break(names[0], Break("layer_kinds_differ"))
            stream = self._layer(old, layer, stream)
            # ModernBERT's first layer lacks a norm that the others have.
            of_source = {_LAYER.sub(".", tensor) for tensor in _tensors(old)}
            for tensor in names:
                if _LAYER.sub(".", tensor) not in of_source:
                    del self.maps[tensor]
            seen[form] = names
        return stream

    def _depth(self) -> None:
        """What added layers do to what passes through."""
        layers, own = self.target.layers, list(range(len(self.source.layers)))
        added = [number for number, origin in enumerate(self.origins) if origin.added]
        active = [None if origin.average else origin.source for origin in self.origins if not origin.zero_output]
        if active == own:
            # Each of them ends in a norm, whatever it adds.
            if added and self.target.writes_by_norms:
                self._break(_tensors(layers[added[0]])[-1], Break("normalizes_again"))
            return
        kept = [origin.source for origin in self.origins if not origin.added]
        if kept != own:
            self._break(_tensors(layers[0])[0], Break("layers_reordered"))
        for number in added:
            origin = self.origins[number]
            # A zero-output layer passes on what comes.
            if not origin.zero_output:
                code = "random_layers" if origin.source is None else "averaged_layers" if origin.average else "repeated_layers"
                self._break(_tensors(layers[number])[0], Break(code))

    def _zero_output_layers(self) -> None:
        """Rows at zero under a gain of zero would never have a gradient: a branch that its norm silences may hold anything."""
        filled: dict[int, Maps] = {}
        for origin, layer in zip(self.origins, self.target.layers, strict=True):
            normed = [branch for branch in layer.branches if origin.zero_output and branch.post is not None]
            for last in [each for branch in normed for each in branch.writers]:
                maps = self.maps[last.weight]
                if id(maps) not in filled:
                    rows = maps[1 if last.transposed else 0]
                    free = replace(rows, indices=torch.where(rows.indices == ZERO, INIT, rows.indices))
                    filled[id(maps)] = tuple(free if each is rows else each for each in maps)
                self.maps[last.weight] = filled[id(maps)]

    # --- nodes ------------------------------------------------------------------------------------

    def _embedded(self, old_stack: Stack, new_stack: Stack) -> Fact:
        written: list[tuple[str, Fact]] = []
        for old, new in zip(old_stack.embeddings, new_stack.embeddings, strict=True):
            # A constant of the class may follow the width (Gemma: sqrt(D)).
            rows = _first_layer(self._writer.times(old.scale / new.scale))
            table = self.rules.rows(new.port)
            # The gradient of a matrix that was tied is the sum of two, of which each has its own part from here on.
            self.maps[new.weight] = (table.starting_fresh() if self._unties and new.port == "vocab" else table, rows)
            written.append((new.weight, Fact.given(rows, self.source.sizes[RESIDUAL], new.scale / old.scale)))
            if new.weight == self.target.head.matrix:
                self._output = rows
        (_, stream), *others = written
        for weight, added in others:
            stream = self._sum(weight, stream, added)
        norm = new_stack.embedding_norm
        return stream if norm is None else self._ending(norm, stream)

    def _layer(self, old: Layer, new: Layer, stream: Fact) -> Fact:
        for old_group, group in zip(old.groups, new.groups, strict=True):
            summed = stream
            for old_branch, branch in zip(old_group, group, strict=True):
                added = self._branch(old_branch, branch, stream)
                summed = self._sum(branch.writers[0].weight, summed, added)
                if branch.ends is not None:
                    summed = self._ending(branch.ends, summed)
            stream = summed
        return stream

    def _branch(self, old: Branch, new: Branch, stream: Fact) -> Fact:
        x = stream if new.pre is None else self._norm(new.pre, stream)
        scale = old.scale / new.scale
        match old.body, new.body:
            case Attention() as source, Attention() as target:
                written = self._written(target.last, self._attention(source, target, x), scale)
            case Experts() as mixture, Experts() as grown:
                written = self._experts(mixture, grown, x, scale)
            case _, Mlp() as network:
                written = self._network(network, x, scale)
            case _:
                raise TypeError(f"{type(old.body).__name__} does not grow into {type(new.body).__name__}")
        return written if new.post is None else self._norm(new.post, written, wanted=self._writer)

    def _written(self, last: Linear, mixed: Fact, scale: float) -> Fact:
        """What a branch's last matrix adds to the stream; `scale` makes up for a constant that follows the sizes."""
        rows = self._writer.times(scale)
        return Fact.given(rows, self.source.sizes[RESIDUAL], self._applied(last, [rows], mixed) / scale)

    def _network(self, body: Mlp, x: Fact, scale: float) -> Fact:
        """An FFN: gate and unit have the same rows, and copies at scale 1 stay copies behind the activation."""
        given: dict[str, Fact] = {}
        for linear in body.inputs:
            rows = self.rules.units(linear.out.parts[0].ports[0])
            given |= self._linear(linear, x, {part.name: rows for part in linear.out.parts})
        return self._written(body.last, next(iter(given.values())), scale)

    def _experts(self, old: Experts, new: Experts, x: Fact, scale: float) -> Fact:
        """A mixture: with the source's gates, which follow from the router's scores, it gives what its experts give."""
        scores = self.rules.experts()
        self._linear(new.router, x, {"": scores})
        if new.selection_bias is not None:
            self.maps[new.selection_bias] = (scores,)
        copies, rest = divmod(len(new.each), len(old.each))
        if rest or new.per_token != copies * old.per_token:
            # A softmax over copies halves each gate, and twice as many of them are chosen.
            sizes = {"experts": len(new.each), "chosen": new.per_token, "old": len(old.each), "old_chosen": old.per_token}
            self._break(new.router.weight, Break("routing_changed", sizes))
        elif (old.grouped or new.grouped) and (new.groups, new.groups_per_token) != (
            copies * old.groups,
            copies * old.groups_per_token,
        ):
            # Copies of a group score as it does, and are chosen with it.
            groups = {"groups": new.groups, "of_groups": new.groups_per_token, "copies": copies}
            before = {"old_groups": old.groups, "old_of_groups": old.groups_per_token}
            self._break(new.router.weight, Break("groups_changed", groups | before))
        # A sigmoid over copies is what it was: without a sum that they are divided by, their gates add up to so many times it.
        gates = copies if new.gate == "sigmoid" and not new.renormalized and not rest else 1
        written = self._network(new.each[0], x, scale / gates)
        networks = [[tensor.name for tensor in network_tensors(network, 0)] for network in new.each]
        for alike in zip(*networks, strict=True):
            first, *rest_of_axes = self.maps[alike[0]]
            if copies > 1:
                # Copies of an expert have their share of its gate, and of its gradient.
                first = replace(first, copies=first.filled("copies") * copies)
            self.maps |= dict.fromkeys(alike, (first, *rest_of_axes))
        if new.shared_gate is not None:
            self._linear(new.shared_gate, x, {"": AxisIndexMap.identity(1)})
        if new.shared is not None:
            written = self._sum(new.shared.last.weight, written, self._network(new.shared, x, scale))
        return written

    def _attention(self, old: Attention, new: Attention, x: Fact) -> Fact:
        heads = self.rules.heads_of_latents(old, new) if new.latents else self.rules.heads(old, new)
        given: dict[str, Fact] = {}
        latents: dict[str, Fact] = {}
        for latent in new.latents:
            given |= self._linear(latent.linear, x, {**heads.rows, "latent": self.rules.latent(latent.port)})
            normed, cause = facts.normalize(given.pop("latent"), latent.norm.kind)
            if cause is not None:
                self._break(latent.norm.gain, cause.at(latent.port))
            gain, latents[latent.port] = self.rules.latent_norm(latent.port, normed)
            self.maps[latent.norm.gain] = (gain,)
        for linear in new.inputs:
            read = self._encoded if new.reads_encoder(linear) else latents.get(linear.into.parts[0].ports[0], x)
            given |= self._linear(linear, read, heads.rows)
        for norm, part, _ in head_norms(new):
            normalized = self._head_norm if norm.span == "head" else self._norm_over_heads
            given[part] = normalized(norm, given[part], heads.gains[part])
        return self._mixed(old, new, self._whole_heads(given) if new.latents else given)

    def _whole_heads(self, given: Mapping[str, Fact]) -> dict[str, Fact]:
        """Queries and keys of two parts as one: in each head what positions turn, and behind it what they do not."""
        source, target = self.source.sizes, self.target.sizes
        heads, width = target["heads"], target["qk_rope_head_dim"]
        turning, still = source["qk_rope_head_dim"], source["qk_nope_head_dim"]

        def whole(turned: Fact, rest: Fact, *, shared: bool) -> Fact:
            """`shared`: every head has its own copy of one, as far as its other part is a source head's."""
            index = rest.index.reshape(heads, -1)
            head = torch.where(index >= 0, index // still, NOISE).amax(dim=1, keepdim=True)
            first = turned.index.reshape(-1, width).expand(heads, -1)
            beside = head if shared else first // turning
            placed = torch.where(beside < 0, NOISE, beside * (turning + still) + first % turning)
            first = torch.where(first < 0, first, placed)
            index = torch.where(index < 0, index, head * (turning + still) + turning + index % still)
            scales = turned.scale.reshape(-1, width).expand(heads, -1), rest.scale.reshape(heads, -1)
            whole_index, whole_scale = (torch.cat(both, dim=1).reshape(-1) for both in ((first, index), scales))
            return Fact(whole_index, whole_scale, source["heads"] * (turning + still))

        return {
            "query": whole(given["query_rope"], given["query"], shared=False),
            "key": whole(given["key_rope"], given["key"], shared=True),
            "value": given["value"],
        }

    def _linear(self, linear: Linear, x: Fact, rows: Mapping[str, AxisIndexMap]) -> dict[str, Fact]:
        chosen = [rows[part.name] for part in linear.out.parts]
        factor = self._applied(linear, chosen, x)
        return {
            part.name: self._activation(part.ports, each, factor) for part, each in zip(linear.out.parts, chosen, strict=True)
        }

    def _activation(self, ports: tuple[str, ...], rows: AxisIndexMap, factor: float) -> Fact:
        fact = Fact.given(rows, numel(ports, self.source.sizes), factor)
        return fact if rows.next_layer is None or not self.rules.operator.zero_output_units else fact.noisy(rows.next_layer)

    def _norm(self, norm: Norm, x: Fact, *, wanted: AxisIndexMap | None = None, read_by: AxisIndexMap | None = None) -> Fact:
        """A norm whose gain brings copies to scale 1, to that of `wanted`, or to where `read_by` reads the source's."""
        normed, cause = facts.normalize(x, norm.kind, weighted=self.rules.growth.norm_statistics == "weighted")
        if cause is not None:
            self._break(norm.gain, cause.at(RESIDUAL))
        gain, bias, out = self.rules.norm(normed, wanted, read_by)
        self.maps[norm.gain] = (gain,)
        if norm.bias is not None:
            self.maps[norm.bias] = (bias,)
        return out

    def _ending(self, norm: Norm, x: Fact) -> Fact:
        """A norm that overwrites the stream."""
        written = self._norm(norm, x, wanted=self._writer)
        if bool((written.index == MEAN).any()):
            # What it can write there is a number, and the mean of the others is another one for each token.
            self._break(norm.gain, Break("mean_not_written", {"port": RESIDUAL}))
        return written

    def _head_norm(self, norm: Norm, x: Fact, gain: AxisIndexMap) -> Fact:
        """A norm over each head's channels."""
        self.maps[norm.gain] = (gain,)
        old, new = self.source.sizes["head_dim"], self.target.sizes["head_dim"]
        heads = x.index.reshape(-1, new)
        heads = heads[(heads >= 0).all(dim=1)]
        # A head's statistics stay where its channels are repeated equally often.
        counts = torch.zeros(len(heads), old, dtype=torch.int64).scatter_add_(1, heads % old, torch.ones_like(heads))
        if bool((counts * old != new).any()):
            self._break(norm.gain, Break("uneven_channels_of_head"))
        gains = gain.indices.repeat(len(x.index) // new)
        index = torch.where(x.copied & (gains == x.index % old), x.index, NOISE)
        index = torch.where(gains == ZERO, ZERO, index)
        return Fact(index, x.scale * gain.factors.repeat(len(x.index) // new), x.source_size)

    def _norm_over_heads(self, norm: Norm, x: Fact, gain: AxisIndexMap) -> Fact:
        """One norm over the channels of all heads."""
        normed, cause = facts.normalize(x, norm.kind)
        if cause is not None:
            self._break(norm.gain, cause.at("heads"))
        if not facts.same(normed.scale, 1.0):
            gain = replace(gain, scale=gain.factors / normed.scale)
        self.maps[norm.gain] = (gain,)
        index = torch.where(normed.copied & (gain.indices == normed.index), normed.index, NOISE)
        return Fact(torch.where(gain.indices == ZERO, ZERO, index), normed.scale * gain.factors, x.source_size)

    def _mixed(self, old: Attention, new: Attention, given: Mapping[str, Fact]) -> Fact:
        """What the heads mix: a source head's where queries, keys and values are that head's, else noise."""
        before, width = self.source.sizes["head_dim"], self.target.sizes["head_dim"]
        values, value_width = self.source.sizes[old.value_port], self.target.sizes[new.value_port]
        old_group = self.source.sizes["heads"] // self.source.sizes["kv_heads"]
        heads = self.target.sizes["heads"]
        served_by = torch.arange(heads) // (heads // self.target.sizes["kv_heads"])

        def by_head(part: str) -> tuple[torch.Tensor, torch.Tensor]:
            channels = value_width if part == "value" else width
            index, scale = given[part].index.reshape(-1, channels), given[part].scale.reshape(-1, channels)
            return (index, scale) if part == "query" else (index[served_by], scale[served_by])

        (query, query_scale), (key, key_scale), (value, value_scale) = (by_head(part) for part in ("query", "key", "value"))
        head = torch.where(query >= 0, query // before, -1).amax(dim=1)
        group = (head // old_group)[:, None]
        both = (query >= 0) & (key >= 0)
        meets = (query // before == head[:, None]) & (key // before == group) & (query % before == key % before)
        if new.rotary is not None and old.rotary is not None:
            here = torch.arange(width).expand_as(key)
            meets &= torch.isclose(new.rotary.turn(here), old.rotary.turn((key % before).clamp(min=0)))
        odd = ((query == NOISE) & (key != ZERO)) | ((key == NOISE) & (query != ZERO)) | (both & ~meets)
        noise = (head < 0) | odd.any(dim=1) | ((value >= 0) & (value // values != group)).any(dim=1)
        if self._added_to_scores is not None and not new.cross:
            noise |= self._added_to_scores.index != head
        if self.rules.operator.fills:
            # Nothing is done to keep the function, and what is read stays where it was.
            noise = head < 0
        weights = torch.where(both & ~noise[:, None], query_scale * key_scale * (new.score / old.score), 0.0)
        places = torch.where(both, key % before, 0)
        sums = torch.zeros(heads, before, dtype=torch.float64).scatter_add_(1, places, weights)[~noise]
        if len(sums) and not facts.same(sums, 1.0):
            self._break(new.inputs[0].weight, Break("scores_scaled", {"factor": float(sums[0, 0])}))
        mixed = torch.where(value >= 0, head[:, None] * values + value % values, value)
        fact = Fact(mixed.reshape(-1), value_scale.reshape(-1), self.source.sizes["heads"] * values)
        return fact.noisy(noise.repeat_interleave(value_width))

    def _head(self, stream: Fact) -> None:
        head = self.target.head
        # A tied matrix is the embedding, and cannot carry 1 / (a C) (bert2BERT eq. 7, 9): the norm before it does.
        output = self._output if head.tied else None
        # A constant of the class may follow the width (T5: 1 / sqrt(D)).
        scale = head.scale / self.source.head.scale
        x, norm = stream, self.target.stack.final
        if head.transform is not None:
            x = x if norm is None else self._norm(norm, x)
            rows = _first_layer(self._writer)
            x = Fact.given(rows, self.source.sizes[RESIDUAL], self._applied(head.transform, [rows], x))
            cause = facts.activate(x)
            if cause is not None:
                self._break(head.transform.weight, cause.at(RESIDUAL))
            norm = head.norm
        if norm is None:
            raise TypeError("no norm stands before the output matrix")
        # In a post-LN model it leaves new channels at the mean, as the norms of layers do.
        wanted = self._writer if self.target.writes_by_norms else None
        x = self._norm(norm, x, wanted=wanted, read_by=None if output is None else output.times(scale))
        if output is None:
            output = self.rules.reader(STREAM, x).times(1 / scale)
            table = self.rules.rows("vocab")
            self.maps[head.matrix] = (table.starting_fresh() if self._unties else table, output)
        factor = self._product(head.matrix, STREAM, x, output) * scale
        if not math.isclose(factor, 1.0, rel_tol=1e-9):
            self._break(head.matrix, Break("logits_scaled", {"factor": factor}))
        for bias in head.biases:
            self.maps[bias] = (self.rules.rows("vocab"),)

    def _pooler(self, pooler: Pooler, stream: Fact) -> None:
        rows = self.rules.units("pooled")
        pooled = self._activation(("pooled",), rows, self._applied(pooler.dense, [_first_layer(rows)], stream))
        self._applied(pooler.classes, [AxisIndexMap.identity(self.target.sizes["pair_classes"])], pooled)

    # --- helpers ----------------------------------------------------------------------------------

    def _applied(self, linear: Linear, rows: Sequence[AxisIndexMap], x: Fact) -> float:
        """Make the maps of a linear whose parts have these rows; return what its product is of the source's product."""
        columns, out = self.rules.reader(linear.into, x), along(linear.out, rows, self.source.sizes, self.target.sizes)
        self.maps[linear.weight] = (columns, out) if linear.transposed else (out, columns)
        if linear.bias is not None:
            self.maps[linear.bias] = (out,)
        # What new heads and units read is of no account where they write nothing; new channels of the stream are read.
        if out.reads_next_layer and (RESIDUAL in linear.out.ports or not self.rules.operator.zero_output_units):
            self._break(linear.weight, Break("next_layer"))
        return self._product(linear.weight, linear.into, x, columns)

    def _sum(self, tensor: str, one: Fact, other: Fact) -> Fact:
        fact, cause = facts.agree(one, other)
        if cause is not None:
            self._break(tensor, cause)
        return fact

    def _product(self, matrix: str, into: Axis, fact: Fact, columns: AxisIndexMap) -> float:
        factor, cause = facts.read(fact, columns)
        if cause is not None:
            self._break(matrix, cause.at(into.parts[0].ports[0]))
        return factor

    def _break(self, tensor: str, cause: Break) -> None:
        if all(departure.cause != cause for departure in self.departures):
            self.departures.append(Departure(tensor, cause))


def _first_layer(rows: AxisIndexMap) -> AxisIndexMap:
    """Embeddings and the head have no next layer."""
    return replace(rows, next_layer=None)


def _tensors(layer: Layer) -> list[str]:
    """The names of a layer's tensors, in a fixed order."""
    return [tensor.name for branch in layer.branches for tensor in branch_tensors(branch, 0)]
