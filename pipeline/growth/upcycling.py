"""A source read as a mixture of experts: a dense model's feed-forward networks, or a mixture's experts, or parts of them.

Nothing is copied: each expert's tensors are read from the source's. With gates that sum to 1 over the experts that are
chosen, experts that are alike compute what one of them does, whatever the router says (sparse upcycling, Komatsuzaki et al.
2023). Parts: all G parts of a network have one router row, so that they are chosen together (virtual groups, He et al. 2024),
and write G times as much.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families import MIXTURE_FORMS, family_of, read_as
from pipeline.families.graph import Experts, Mlp, Model
from pipeline.growth import gates
from pipeline.growth.expert_copies import OpposedCopy, sign_of
from pipeline.growth.facts import Break, Departure
from pipeline.growth.fused_parameters import ConcatenatedRows
from pipeline.growth.gates import Gates
from pipeline.growth.grown_tensor import MeasuredTensor
from pipeline.growth.initialization import InitializedTensor, drawing, initialized
from pipeline.growth.moments import Kept
from pipeline.growth.row_views import DrawnRows, RepeatedRows, Replaced, TensorSlice, drawn_units
from pipeline.growth.state import Constant, OptimizerState, Rows, Source, State
from pipeline.operators import UPCYCLING
from pipeline.recipe import GrowthConfig
from pipeline.recipe.growth import AUTO


@dataclass(frozen=True, slots=True)
class _Part:
    """How a tensor of an expert is made of one of the source's, and what becomes of Adam's moments."""

    tensor: str
    rows: slice
    columns: slice
    factor: float
    first: float
    """What exp_avg is multiplied by."""
    second: float
    """What exp_avg_sq is multiplied by."""
    units: int
    """The storage axis of its units."""
    expert: int | None
    """None for the shared expert."""


@dataclass(frozen=True)
class Upcycling:
    """How a source is read as the mixture that then grows."""

    source: PretrainedConfig
    config: PretrainedConfig
    """That of the mixture, at the source's sizes."""
    growth: GrowthConfig
    seed: int
    measured: Gates | None = None
    """The shares of the experts over tokens, where they were measured."""
    measures: bool = False
    """Whether they are to be measured before the mixture is filled."""

    @cached_property
    def source_graph(self) -> Model:
        """The source's."""
        return family_of(self.source).graph(self.source)

    @cached_property
    def graph(self) -> Model:
        """The mixture's."""
        return family_of(self.config).graph(self.config)

    @property
    def splits(self) -> bool:
        """Whether the source is a mixture, whose experts are cut into parts."""
        return "experts" in self.source_graph.sizes

    @cached_property
    def pieces(self) -> int:
        """Into how many experts a network is cut."""
        if self.splits:
            return self.graph.sizes["experts"] // self.source_graph.sizes["experts"]
        _, network, body = next(self._bodies())
        return (self._units_of(network) - self._units_shared(body)) // body.each[0].last.into.size(self.graph.sizes)

    def state(self, source: State) -> State:
        """Return the mixture's tensors, of the source's."""
        initial = initialized(family_of(self.config), self.config, self.seed)
        state = {name: source.get(name, tensor) for name, tensor in initial.items()}
        measured = {name: MeasuredTensor(tensor) for name, tensor in source.items()}
        for name, part in self._parts.items():
            state[name] = self._weights(name, part, measured)
        for _number, network, body in self._bodies():
            state[body.router.weight] = self._router(network, body, source)
            if self.splits and body.selection_bias is not None:
                state[body.selection_bias] = self._in_turn(source[network.selection_bias])
            if self._units_shared(body):
                # sigmoid(0) = 1/2 of what is written twice as large.
                state[body.shared_gate.weight] = Constant(state[body.shared_gate.weight].shape, 0.0)
            elif body.shared is not None and not self.splits:
                state[body.shared.last.weight] = Constant(state[body.shared.last.weight].shape, 0.0)
        return state

    def optimizer(self, source: OptimizerState) -> OptimizerState:
        """Return what Adam keeps of the mixture's tensors; routers, new units, and experts that no token chose start without.

        Expert e of a token t has the gate g_e(t), and its part W' = a W writes c times what W does. The gradient of W' is then
        the sum over tokens of (c g_e(t) / a) dW(t), so that exp_avg, and Muon's momentum_buffer, are multiplied by the mean
        of that factor, and exp_avg_sq by the mean of its square, as if tokens' gradients were independent of each other and
        of the gates.
        """
        made = {*self._parts, *(body.router.weight for _, _, body in self._bodies())}
        kept = {name: entry for name, entry in source.items() if name in self.graph.tensors() and name not in made}
        # Of an expert that no token chose exp_avg_sq would be 0, and its first update too large; without a state its steps
        # are counted from 0.
        parts = {name: part for name, part in self._parts.items() if part.tensor in source and part.second > 0}
        return kept | {name: self._moments(name, part, source[part.tensor]) for name, part in parts.items()}

    def added_steps_left(self, before: Mapping[str, Rows | float], steps: float) -> Mapping[str, Rows | float]:
        """Return for how many steps the mixture's elements have a rate of their own: `steps` of those that the source lacks.

        `before` is what was left of the source's tensors. The first copy of a network, cut into parts or whole, is the source's
        own; the others, units that are drawn anew, routers and what a token goes through besides are new. Parts of the
        source's experts are its own, and so is the first of the router rows of each of them.
        """
        source, found = self.source_graph.tensors(), dict[str, Rows | float]()
        for name in self.graph.tensors():
            found[name] = before.get(name, 0.0) if name in source else steps
        for name, part in self._parts.items():
            copied = not self.splits and part.expert is not None and part.expert >= self.pieces
            found[name] = steps if copied else self._left_of_part(name, part, before.get(part.tensor, 0.0), steps)
        for _, network, body in self._bodies() if self.splits else ():
            held, rows = before.get(network.router.weight, 0.0), network.router.weight
            shape = self._sizes_of_source[rows]
            parts = [Constant(shape, held) if isinstance(held, float) else held]
            parts += [Constant(shape, steps)] * (self.pieces - 1)
            found[body.router.weight] = ConcatenatedRows((shape[0] * self.pieces, *shape[1:]), parts)
        return found

    def _left_of_part(self, name: str, part: _Part, before: Rows | float, steps: float) -> Rows | float:
        redraws = part.expert is not None and not self.splits and self.growth.drop_upcycling
        if isinstance(before, float) and not redraws:
            return before
        shape = (part.rows.stop - part.rows.start, part.columns.stop - part.columns.start)
        own = Constant(shape, before) if isinstance(before, float) else TensorSlice(before, part.rows, part.columns)
        return Replaced(own, Constant(shape, steps), self._redrawn(name, shape[part.units]), part.units) if redraws else own

    def measure(self, source: Source, input_ids: torch.Tensor) -> Gates:
        """Return the shares of the experts over tokens [sequences, S], as the router begins."""
        bodies = [layer.branches[-1].body for layer in self.graph.layers]
        return gates.measured(source, bodies, self.state(source.state), input_ids)

    def describe(self, name: str) -> str:
        """Return what one of the mixture's tensors is read from, in words."""
        if name not in self._parts:
            return name if name in self.source_graph.tensors() else "new"
        part, growth = self._parts[name], self.growth
        units, size = part.columns if part.units else part.rows, self._sizes_of_source[part.tensor][part.units]
        said = [part.tensor + (f" units {units.start} to {units.stop}" if units.stop - units.start < size else "")]
        said += [f"x {part.factor:g}"] if part.factor != 1.0 else []
        if part.expert is not None and not self.splits:
            said += [f"noise of {growth.noise:g} standard deviations, +e and -e in pairs"] if self._opposes(part) else []
            said += [f"{growth.drop_upcycling:g} of its units drawn anew"] if growth.drop_upcycling else []
        return ", ".join(said)

    @property
    def remarks(self) -> list[str]:
        """What there is to say of how the source is read."""
        _, _, body = next(self._bodies())
        if self.splits:
            return [
                f"each expert of the source is read as {self.pieces} that have its units together, and write {self.pieces} "
                f"times as much: {len(body.each)} experts, of which a token goes through {body.per_token}"
            ]
        copies = f"{len(body.each) // self.pieces} copies, each cut into {self.pieces} parts: " if self.pieces > 1 else ""
        said = [f"each FFN is read as {copies}{len(body.each)} experts, of which a token goes through {body.per_token}"]
        dense = [number for number, layer in enumerate(self.graph.layers) if isinstance(layer.branches[-1].body, Mlp)]
        said += [f"layers without experts: {', '.join(map(str, dense))}"] if dense else []
        if self._units_shared(body):
            said.append(f"the expert that every token goes through has {self._units_shared(body)} of the FFN's units")
        elif body.shared is not None:
            said.append("the expert that every token goes through is new and writes nothing at first")
        if body.per_token == 1 < len(body.each):
            said.append(
                "a token goes through one copy of the FFN, whose gate is 1 whatever the router says: only a loss on the "
                "router itself teaches it"
            )
        if self.growth.router_init == "zero" and body.per_token < len(body.each):
            said.append(
                "the router starts at zero, so that at first all tokens go through the same experts; only a loss on the "
                "router itself changes that"
            )
        return said

    @property
    def shares(self) -> str:
        """Whence the shares of the experts in a gradient are, in words."""
        if self.measured is None and self.measures:
            return "each expert will have the share of a gradient that its gates have over held-out text"
        if self.measured is None:
            return "each expert has the share of a gradient that it has where all are chosen as often, by equal gates"
        return (
            f"each expert has the share of a gradient that its gates have over {self.measured.tokens:,} tokens of held-out text"
        )

    @property
    def gates_stay(self) -> bool:
        """Whether every expert has the same share of every token, so that Adam's state is exact."""
        _, _, body = next(self._bodies())
        all_chosen = body.per_token == len(body.each)
        return self.splits or len(body.each) == 1 or (all_chosen and self.growth.router_init == "zero")

    @property
    def departures(self) -> list[Departure]:
        """What the mixture computes otherwise than the source."""
        if self.splits:
            return []
        _, _, body = next(self._bodies())
        found = []
        if self.growth.drop_upcycling:
            causes = Break("units_redrawn", {"share": self.growth.drop_upcycling})
            found.append(Departure(body.each[0].inputs[0].weight, causes))
        if self.growth.piece_routing == "independent" and not self.gates_stay:
            found.append(Departure(body.router.weight, Break("parts_routed_apart", {"parts": self.pieces})))
        if not body.renormalized and body.per_token < len(body.each) and self.growth.router_init != "zero":
            sizes = {"experts": len(body.each), "chosen": body.per_token}
            found.append(Departure(body.router.weight, Break("gates_not_renormalized", sizes)))
        return found

    @property
    def redrawn(self) -> int:
        """How many units of each expert are drawn anew."""
        _, _, body = next(self._bodies())
        return round(self.growth.drop_upcycling * body.each[0].last.into.size(self.graph.sizes))

    @property
    def leaves_alike(self) -> bool:
        """Whether experts that are copies have the same gradient for ever."""
        return self.growth.router_init == "zero" and not (self.growth.drop_upcycling or self.growth.symmetry != "none")

    def record(self) -> dict[str, Any]:
        """Return what a certificate says of it."""
        _, _, body = next(self._bodies())
        return {
            "model_type": self.source.model_type,
            "experts": len(body.each),
            "experts_per_token": body.per_token,
            "pieces": self.pieces,
            **{key: getattr(self.config, key) for key in MIXTURE_FORMS if hasattr(self.config, key)},
            "gate_shares": None
            if self.growth.optimizer_state != "grow" or self.splits
            else {"from": "uniform"}
            if self.measured is None
            else {
                "from": "held-out text",
                "tokens": self.measured.tokens,
                "mean": [[share.mean for share in layer] for layer in self.measured.layers],
                "mean_square": [[share.square for share in layer] for layer in self.measured.layers],
            },
        }

    def _bodies(self) -> Iterator[tuple[int, Mlp | Experts, Experts]]:
        """Yield of each layer with experts: its number, what the source has there, and the mixture."""
        for number, (old, new) in enumerate(zip(self.source_graph.layers, self.graph.layers, strict=True)):
            if isinstance(new.branches[-1].body, Experts):
                yield number, old.branches[-1].body, new.branches[-1].body

    @cached_property
    def _sizes_of_source(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tensor.shape(self.source_graph.sizes) for name, tensor in self.source_graph.tensors().items()}

    def _units_of(self, network: Mlp) -> int:
        return network.last.into.size(self.source_graph.sizes)

    def _units_shared(self, body: Experts) -> int:
        """How many of a dense model's units the shared expert has."""
        if self.growth.shared_expert != "ffn" or self.splits:
            return 0
        return body.shared.last.into.size(self.graph.sizes)

    @cached_property
    def _parts(self) -> Mapping[str, _Part]:
        """Of each tensor of an expert, what it is made of.

        Of a dense network expert r G + p is part p of copy r; of a mixture of E experts, expert p E + e is part p of expert e.
        """
        found: dict[str, _Part] = {}
        for number, network, body in self._bodies():
            taken, writes = self._units_shared(body), self._writes(body)
            even = gates.Share(1 / writes, 1 / writes**2) if self.splits else gates.uniform(body)
            for expert, new in enumerate(body.each):
                if self.splits:
                    piece, number_of_old = divmod(expert, len(network.each))
                    old = network.each[number_of_old]
                else:
                    piece, old = expert % self.pieces, network
                units = new.last.into.size(self.graph.sizes)
                begin = taken + piece * units
                share = even if self.measured is None or self.splits else self.measured.layers[number][expert]
                found |= self._network(old, new, slice(begin, begin + units), writes, share, expert)
            if taken:
                found |= self._network(network, body.shared, slice(0, taken), 2.0, gates.Share(0.5, 0.25), None)
        return found

    def _writes(self, body: Experts) -> float:
        """How many times as much a part writes as it did in the source's network."""
        if self.splits:
            # Copies of a row of a softmax, or of one of several gates that are divided by their sum, divide its gate.
            return self.pieces if body.renormalized or body.gate == "softmax" else 1.0
        # Gates that are not renormalized sum to k / E, if the router gives all experts about the same.
        return self.pieces / body.scaling * (1.0 if body.renormalized else len(body.each) / body.per_token)

    def _network(
        self, old: Mlp, new: Mlp, units: slice, writes: float, share: gates.Share, expert: int | None
    ) -> dict[str, _Part]:
        """The tensors of one network made of these units of another, whose output is multiplied by `writes`."""
        stream, found = slice(0, self.source_graph.sizes["residual"]), {}
        for one, other in zip(old.inputs, new.inputs, strict=True):
            moments = writes * share.mean, writes**2 * share.square
            found[other.weight] = _Part(one.weight, units, stream, 1.0, *moments, 0, expert)
        found[new.last.weight] = _Part(old.last.weight, stream, units, writes, share.mean, share.square, 1, expert)
        return found

    def _weights(self, name: str, part: _Part, source: Mapping[str, MeasuredTensor]) -> Rows:
        measured = source[part.tensor]
        whole = part.factor == 1.0 and (part.rows.stop - part.rows.start, part.columns.stop - part.columns.start)
        tensor: Rows = measured.tensor
        if whole != tuple(measured.shape):
            tensor = TensorSlice(tensor, part.rows, part.columns, part.factor)
        if part.expert is None or self.splits:
            return tensor
        if self._opposes(part):
            group, sign = sign_of(part.expert // self.pieces, self.graph.sizes["experts"] // self.pieces, 1)
            key = ("experts", self.seed, self.graph.of_expert(name, group * self.pieces + part.expert % self.pieces))
            everywhere = torch.ones(tensor.shape[1], dtype=torch.bool)
            tensor = OpposedCopy(tensor, measured, everywhere, key, sign * self.growth.noise * part.factor)
        if self.growth.drop_upcycling:
            drawn = DrawnRows(tensor.shape, measured, part.factor, ("drop_upcycling", self.seed, name))
            tensor = Replaced(tensor, drawn, self._redrawn(name, tensor.shape[part.units]), part.units)
        return tensor

    def _opposes(self, part: _Part) -> bool:
        """Whether a tensor has noise that that of another copy takes away: the last matrix of an expert."""
        return self.growth.symmetry != "none" and part.units == 1

    def _redrawn(self, name: str, units: int) -> torch.Tensor:
        """Which units of an expert are drawn anew: the same ones of all of its matrices."""
        expert = name.rsplit(".", 2)[0]
        return drawn_units(self.growth.drop_upcycling, units, ("dropped units", self.seed, expert))

    def _moments(self, name: str, part: _Part, kept: Mapping[str, Rows | float]) -> Kept:
        shape = (part.rows.stop - part.rows.start, part.columns.stop - part.columns.start)
        factors = {"exp_avg": part.first, "exp_avg_sq": part.second, "momentum_buffer": part.first}
        if self.growth.element_rates:
            # The source's own dynamics go on at the rate a lr, and at the eps that stands beside the root of exp_avg_sq.
            kept = {"lr_factor": 1.0, "eps_factor": 1.0} | dict(kept)
            factors |= {"lr_factor": part.factor, "eps_factor": part.second**0.5}
        moved: dict[str, Rows | float] = {}
        for key, held in kept.items():
            factor = factors.get(key, 1.0)
            moved[key] = held * factor if isinstance(held, float) else TensorSlice(held, part.rows, part.columns, factor)
        if part.expert is None or not self.growth.drop_upcycling:
            return moved
        where = self._redrawn(name, shape[part.units])

        def but_for_drawn(key: str, held: Rows | float) -> Rows:
            tensor = Constant(shape, held) if isinstance(held, float) else held
            return Replaced(tensor, Constant(shape, 1.0 if key.endswith("_factor") else 0.0), where, part.units)

        return {key: but_for_drawn(key, held) for key, held in moved.items()}

    def _in_turn(self, tensor: Rows) -> Rows:
        """The rows of the source's experts, once for each part."""
        return ConcatenatedRows((tensor.shape[0] * self.pieces, *tensor.shape[1:]), [tensor] * self.pieces)

    def _router(self, network: Mlp | Experts, body: Experts, source: State) -> Rows:
        """A router: rows of its own, one for all that are to be chosen together."""
        if self.splits:
            return self._in_turn(source[network.router.weight])
        name, growth = body.router.weight, self.growth
        together = 1 if growth.piece_routing == "independent" else self.pieces
        together *= 2 if growth.symmetry != "none" else 1
        shape = (len(body.each) // together, self.graph.sizes["residual"])
        if growth.router_init == "zero":
            return Constant((len(body.each), shape[1]), 0.0)
        std = body.router.init if growth.router_std is None else growth.router_std
        rows = InitializedTensor(shape, "normal", std, ("init", self.seed, name))
        return rows if together == 1 else RepeatedRows(rows, together)


def plan_upcycling(
    source: PretrainedConfig, target: PretrainedConfig, growth: GrowthConfig, seed: int, where: str = "target."
) -> Upcycling | None:
    """Return how a source is read before it grows into a target; None where it is read as it is.

    `where` stands before keys of the target. Raises UserError where the target's sizes, or the options, ask for what is not
    possible.
    """
    config = read_as(source, target, growth, where)
    upcycling = None if config is source else Upcycling(source, drawing(config, growth), growth, seed)
    dense = upcycling is not None and not upcycling.splits
    for option in UPCYCLING:
        if getattr(growth, option.name) != option.default and not dense:
            raise UserError(
                f"growth.{option.name}: is an option of a dense model that becomes a mixture (target.model_type); leave it out"
            )
    if dense:
        _check_options(upcycling)
    return upcycling


def _check_options(upcycling: Upcycling) -> None:
    """Refuse options that leave it open which experts a token goes through, or that have nothing to act on."""
    growth, pieces = upcycling.growth, upcycling.pieces
    if growth.new_moments != AUTO:
        raise UserError(
            "growth.new_moments: an expert made of a dense model's FFN has the share of its moments that its gate gives it, as "
            "docs/how-to/mixtures.md says; leave the key out"
        )
    experts, chosen = upcycling.config.num_experts, upcycling.config.num_experts_per_tok
    if growth.piece_routing == "independent" and pieces == 1:
        raise UserError(
            "growth.piece_routing: each expert is a whole FFN, and has no parts that could be routed apart; leave it out, or "
            "name target.moe_intermediate_size"
        )
    if growth.symmetry == "split":
        raise UserError(
            "growth.symmetry: split is of copies of channels, heads and units, and a dense model becomes copies of experts; "
            "name paired, or leave it out"
        )
    if growth.drop_upcycling and not upcycling.redrawn:
        raise UserError(
            f"growth.drop_upcycling: {growth.drop_upcycling} of an expert's units is less than one of them; name a larger "
            "share, or leave it out"
        )
    paired = growth.symmetry != "none"
    together = pieces * 2
    if paired and (experts % together or chosen % together or growth.piece_routing == "independent"):
        raise UserError(
            f"growth.symmetry: {growth.symmetry} has two copies of the FFN chosen together, {together} experts, whose noise is "
            f"opposed; name multiples of {together} for num_experts ({experts}) and num_experts_per_tok ({chosen}), leave "
            "piece_routing grouped, or leave symmetry out"
        )
    if growth.router_init == "zero" and chosen < experts and (paired or pieces > 1):
        raise UserError(
            "growth.router_init: zero gives all experts one score, so that it is open which of them a token goes through, and "
            "some are to be chosen together; name normal"
        )
