"""A dense model read as a mixture of experts: each feed-forward network becomes copies of itself, or of slices of itself.

Nothing is copied: each expert's tensors are read from the source's. With gates that sum to 1 over the experts that are
chosen, experts that are alike compute what one of them does, whatever the router says (sparse upcycling, Komatsuzaki et al.
2023). All G slices of a network have one router row, so that they are chosen together (virtual groups, He et al. 2024), and
write G times as much.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families import read_as
from pipeline.families.graph import Experts, Mlp
from pipeline.growth import gates
from pipeline.growth.expert_copies import OpposedCopy, sign_of
from pipeline.growth.expert_slices import ExpertSlice, MixtureForm
from pipeline.growth.expert_splitting import ExpertSplitting
from pipeline.growth.facts import Break, Departure
from pipeline.growth.gates import Gates
from pipeline.growth.grown_tensor import MeasuredTensor
from pipeline.growth.initialization import InitializedTensor, drawing
from pipeline.growth.moments import Kept
from pipeline.growth.row_views import DrawnRows, RepeatedRows, Replaced, drawn_units
from pipeline.growth.source_form import SourceForm
from pipeline.growth.state import Constant, Rows, Source, State, as_rows, default_value
from pipeline.operators import UPCYCLING
from pipeline.recipe import GrowthConfig
from pipeline.recipe.growth import AUTO


@dataclass(frozen=True)
class DenseUpcycling(MixtureForm):
    """How a dense model is read as a mixture: expert r G + p is slice p of copy r of a layer's network."""

    @cached_property
    def bodies(self) -> list[tuple[int, Mlp, Experts]]:
        """Of each layer that gets experts: its number, the source's network, and the mixture."""
        found = []
        for number, (old, new) in enumerate(zip(self.source_graph.layers, self.graph.layers, strict=True)):
            network, body = old.branches[-1].body, new.branches[-1].body
            if isinstance(network, Mlp) and isinstance(body, Experts):
                found.append((number, network, body))
        return found

    @cached_property
    def slices_per_network(self) -> int:
        """Into how many experts a network is cut."""
        _, network, body = self.bodies[0]
        units = network.last.into.size(self.source_graph.sizes) - self._units_shared(body)
        return units // body.each[0].last.into.size(self.graph.sizes)

    def _units_shared(self, body: Experts) -> int:
        """How many of the network's units the shared expert has."""
        if self.growth.shared_expert != "ffn" or body.shared is None:
            return 0
        return body.shared.last.into.size(self.graph.sizes)

    @cached_property
    def slices(self) -> Mapping[str, ExpertSlice]:
        """What each tensor of an expert is made of, by name."""
        found: dict[str, ExpertSlice] = {}
        for number, network, body in self.bodies:
            taken, share = self._units_shared(body), gates.uniform(body)
            # Gates that are not renormalized sum to k / E, if the router gives all experts about the same.
            writes = self.slices_per_network / body.scaling
            writes *= 1.0 if body.renormalized else len(body.each) / body.per_token
            for expert, new in enumerate(body.each):
                units = new.last.into.size(self.graph.sizes)
                begin = taken + expert % self.slices_per_network * units
                of_expert = share if self.measured is None else self.measured.layers[number][expert]
                found |= self.slices_of_network(network, new, slice(begin, begin + units), writes, of_expert, expert)
            if taken and body.shared is not None:
                found |= self.slices_of_network(network, body.shared, slice(0, taken), 2.0, gates.Share(0.5, 0.25), None)
        return found

    def routers(self, source: State) -> dict[str, Rows]:
        """Return the routers, and what makes the shared expert write what it should at first."""
        found: dict[str, Rows] = {}
        tensors = self.graph.tensors()
        for _, _, body in self.bodies:
            found[body.router.weight] = self._router(body)
            if body.shared is None:
                continue
            # sigmoid(0) = 1/2 of what is written twice as large; else the shared expert is new, and writes nothing.
            linear = body.shared_gate if self._units_shared(body) else body.shared.last
            if linear is not None:
                found[linear.weight] = Constant(tensors[linear.weight].shape(self.graph.sizes), 0.0)
        return found

    def _router(self, body: Experts) -> Rows:
        """A router at random: one row for all experts that are to be chosen together."""
        name, growth = body.router.weight, self.growth
        together = 1 if growth.piece_routing == "independent" else self.slices_per_network
        together *= 2 if growth.symmetry != "none" else 1
        shape = (len(body.each) // together, self.graph.sizes["residual"])
        if growth.router_init == "zero":
            return Constant((len(body.each), shape[1]), 0.0)
        std = body.router.init if growth.router_std is None else growth.router_std
        rows = InitializedTensor(shape, std, ("init", self.seed, name))
        return rows if together == 1 else RepeatedRows(rows, together)

    def weights(self, name: str, made_of: ExpertSlice, source: MeasuredTensor) -> Rows:
        """Return a tensor of an expert: a slice of the source's, with noise or with redrawn units."""
        tensor = super().weights(name, made_of, source)
        if made_of.expert is None:
            return tensor
        if self._opposes(made_of):
            count = self.slices_per_network
            group, sign = sign_of(made_of.expert // count, self.graph.sizes["experts"] // count, 1)
            key = ("experts", self.seed, self.graph.of_expert(name, group * count + made_of.expert % count))
            everywhere = torch.ones(tensor.shape[1], dtype=torch.bool)
            tensor = OpposedCopy(tensor, source, everywhere, key, sign * self.growth.noise * made_of.factor)
        if self.growth.drop_upcycling:
            drawn = DrawnRows(tensor.shape, source, made_of.factor, ("drop_upcycling", self.seed, name))
            tensor = self._with_redrawn(name, made_of, tensor, drawn)
        return tensor

    def _opposes(self, made_of: ExpertSlice) -> bool:
        """Whether a tensor has noise that that of another copy takes away: the last matrix of an expert."""
        return self.growth.symmetry != "none" and made_of.unit_axis == 1

    def _redraws(self, made_of: ExpertSlice) -> bool:
        return made_of.expert is not None and self.growth.drop_upcycling > 0

    def _with_redrawn(self, name: str, made_of: ExpertSlice, tensor: Rows | float, drawn: Rows | float) -> Rows:
        """Return a tensor with `drawn` in the redrawn units: the same ones of all matrices of an expert."""
        shape = made_of.shape
        key = ("dropped units", self.seed, name.rsplit(".", 2)[0])
        where = drawn_units(self.growth.drop_upcycling, shape[made_of.unit_axis], key)
        return Replaced(as_rows(tensor, shape), as_rows(drawn, shape), where, made_of.unit_axis)

    def moments(self, name: str, made_of: ExpertSlice, kept: Mapping[str, Rows | float]) -> Kept:
        """Return what Adam keeps of a tensor of an expert; redrawn units start without."""
        moved = super().moments(name, made_of, kept)
        if not self._redraws(made_of):
            return moved
        return {key: self._with_redrawn(name, made_of, held, default_value(key)) for key, held in moved.items()}

    def slice_steps_left(self, name: str, made_of: ExpertSlice, before: Rows | float, steps: float) -> Rows | float:
        """Return the same of a tensor of an expert: the first copy of a network, whole or cut, is the source's own."""
        if made_of.expert is not None and made_of.expert >= self.slices_per_network:
            return steps
        left = super().slice_steps_left(name, made_of, before, steps)
        if not self._redraws(made_of):
            return left
        return self._with_redrawn(name, made_of, left, steps)

    def measure(self, source: Source, input_ids: torch.Tensor) -> Gates:
        """Return the shares of the experts over tokens [sequences, S], as the router begins."""
        networks = [(number, body, network) for number, network, body in self.bodies]
        return gates.measured(source, networks, self.state(source.state), input_ids)

    def changes(self, made_of: ExpertSlice) -> list[str]:
        """Return what is done to a slice."""
        growth = self.growth
        if made_of.expert is None:
            return []
        said = [f"noise of {growth.noise:g} standard deviations, +e and -e in pairs"] if self._opposes(made_of) else []
        return said + ([f"{growth.drop_upcycling:g} of its units redrawn"] if growth.drop_upcycling else [])

    @property
    def remarks(self) -> list[str]:
        """How the source is read."""
        body, count = self.first, self.slices_per_network
        copies = f"{len(body.each) // count} copies, each cut into {count} parts: " if count > 1 else ""
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
    def gate_shares(self) -> str:
        """Where the shares of the experts in a gradient come from; empty where they are the same for every token."""
        if self._gates_stay:
            return ""
        if self.measured is not None:
            over = f"over {self.measured.tokens:,} tokens of held-out text"
            return f"each expert has the share of a gradient that its gates have {over}"
        if self.measures:
            return "each expert will have the share of a gradient that its gates have over held-out text"
        return "each expert has the share of a gradient that it has where all are chosen as often, by equal gates"

    @property
    def _gates_stay(self) -> bool:
        all_chosen = self.first.per_token == len(self.first.each)
        return len(self.first.each) == 1 or (all_chosen and self.growth.router_init == "zero")

    @property
    def departures(self) -> list[Departure]:
        """What the mixture computes otherwise than the source."""
        body, found = self.first, []
        if self.growth.drop_upcycling:
            cause = Break("units_redrawn", {"share": self.growth.drop_upcycling})
            found.append(Departure(body.each[0].inputs[0].weight, cause))
        if self.growth.piece_routing == "independent" and not self._gates_stay:
            found.append(
                Departure(body.router.weight, Break("slices_routed_independently", {"slices": self.slices_per_network}))
            )
        if not body.renormalized and body.per_token < len(body.each) and self.growth.router_init != "zero":
            sizes = {"experts": len(body.each), "chosen": body.per_token}
            found.append(Departure(body.router.weight, Break("gates_not_renormalized", sizes)))
        return found

    @property
    def leaves_duplicates(self) -> bool:
        """Whether experts that are copies have the same gradient for ever."""
        return self.growth.router_init == "zero" and not (self.growth.drop_upcycling or self.growth.symmetry != "none")

    def record(self) -> dict[str, Any]:
        """Return what a certificate says of it."""
        shares = {"from": "uniform"} if self.measured is None else self.measured.record()
        return super().record() | {"gate_shares": shares if self.growth.optimizer_state == "grow" else None}


def plan_upcycling(
    source: PretrainedConfig, target: PretrainedConfig, growth: GrowthConfig, seed: int, where: str = "target."
) -> SourceForm:
    """Return how a source is read before it grows into a target.

    `where` stands before keys of the target. Raises UserError where the target's sizes, or the options, ask for what is not
    possible.
    """
    config = read_as(source, target, growth, where)
    form: SourceForm = SourceForm(source)
    if config is not source:
        mixture = "experts" in form.source_graph.sizes
        form = (ExpertSplitting if mixture else DenseUpcycling)(source, drawing(config, growth), growth, seed)
    for option in UPCYCLING:
        if getattr(growth, option.name) != option.default and not isinstance(form, DenseUpcycling):
            raise UserError(
                f"growth.{option.name}: is an option of a dense model that becomes a mixture (target.model_type); leave it out"
            )
    if isinstance(form, DenseUpcycling):
        _check_options(form)
    return form


def _check_options(upcycling: DenseUpcycling) -> None:
    """Refuse options that leave it open which experts a token goes through, or that have nothing to act on."""
    growth, count = upcycling.growth, upcycling.slices_per_network
    if growth.new_moments != AUTO:
        raise UserError(
            "growth.new_moments: an expert made of a dense model's FFN has the share of its moments that its gate gives it, as "
            "docs/how-to/mixtures.md says; leave the key out"
        )
    experts, chosen = upcycling.config.num_experts, upcycling.config.num_experts_per_tok
    if growth.piece_routing == "independent" and count == 1:
        raise UserError(
            "growth.piece_routing: each expert is a whole FFN, and has no parts to be routed independently; leave it out, or "
            "name target.moe_intermediate_size"
        )
    if growth.symmetry == "split":
        raise UserError(
            "growth.symmetry: split is of copies of channels, heads and units, and a dense model becomes copies of experts; "
            "name paired, or leave it out"
        )
    units = upcycling.first.each[0].last.into.size(upcycling.graph.sizes)
    if growth.drop_upcycling and not round(growth.drop_upcycling * units):
        raise UserError(
            f"growth.drop_upcycling: {growth.drop_upcycling} of an expert's units is less than one of them; name a larger "
            "share, or leave it out"
        )
    paired = growth.symmetry != "none"
    together = count * 2
    if paired and (experts % together or chosen % together or growth.piece_routing == "independent"):
        raise UserError(
            f"growth.symmetry: {growth.symmetry} has two copies of the FFN chosen together, {together} experts, whose noise is "
            f"opposed; name multiples of {together} for num_experts ({experts}) and num_experts_per_tok ({chosen}), leave "
            "piece_routing grouped, or leave symmetry out"
        )
    if growth.router_init == "zero" and chosen < experts and (paired or count > 1):
        raise UserError(
            "growth.router_init: zero gives all experts one score, so that it is open which of them a token goes through, and "
            "some are to be chosen together; name normal"
        )
