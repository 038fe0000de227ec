"""A mixture of experts read as one of smaller experts: each expert is cut into slices along its units.

Copies of a router's row divide its gate, or leave it what it was, and slices write as much more as makes up for that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pipeline.families.graph import Experts
from pipeline.growth.expert_slices import ExpertSlice, MixtureForm
from pipeline.growth.fused_parameters import ConcatenatedRows
from pipeline.growth.gates import Share
from pipeline.growth.state import Constant, Rows, State, as_rows


@dataclass(frozen=True)
class ExpertSplitting(MixtureForm):
    """How a mixture is read as one whose experts are slices of its own: of E experts, p E + e is slice p of expert e."""

    @cached_property
    def _bodies(self) -> list[tuple[Experts, Experts]]:
        """Of each layer with experts: the source's, and what they are read as."""
        pairs = zip(self.source_graph.experts, self.graph.experts, strict=True)
        return [(old, new) for (_, old), (_, new) in pairs]

    @cached_property
    def slices_per_network(self) -> int:
        """Into how many experts an expert is cut."""
        return self.graph.sizes["experts"] // self.source_graph.sizes["experts"]

    @cached_property
    def slices(self) -> Mapping[str, ExpertSlice]:
        """What each tensor of an expert is made of, by name."""
        found: dict[str, ExpertSlice] = {}
        for old, new in self._bodies:
            # Copies of a row of a softmax, or of one of several gates that are divided by their sum, divide its gate.
            writes = self.slices_per_network if new.renormalized or new.gate == "softmax" else 1.0
            share = Share(1 / writes, 1 / writes**2)
            for expert, network in enumerate(new.each):
                number, source = divmod(expert, len(old.each))
                units = network.last.into.size(self.graph.sizes)
                place = slice(number * units, (number + 1) * units)
                found |= self.slices_of_network(old.each[source], network, place, writes, share, expert)
        return found

    def routers(self, source: State) -> dict[str, Rows]:
        """Return the routers' rows, and the biases of selection, once for each slice."""
        found = {new.router.weight: self._in_turn(source[old.router.weight]) for old, new in self._bodies}
        for old, new in self._bodies:
            if old.selection_bias is not None and new.selection_bias is not None:
                found[new.selection_bias] = self._in_turn(source[old.selection_bias])
        return found

    def _in_turn(self, tensor: Rows) -> Rows:
        times = self.slices_per_network
        return ConcatenatedRows((tensor.shape[0] * times, *tensor.shape[1:]), [tensor] * times)

    def added_steps_left(self, before: Mapping[str, Rows | float], steps: float) -> Mapping[str, Rows | float]:
        """Return the same where the first of the router rows that an expert's are copied to is the source's own."""
        found = dict(super().added_steps_left(before, steps))
        for old, new in self._bodies:
            shape = self.source_graph.tensors()[old.router.weight].shape(self.source_graph.sizes)
            own = as_rows(before.get(old.router.weight, 0.0), shape)
            copies = [Constant(shape, steps)] * (self.slices_per_network - 1)
            found[new.router.weight] = ConcatenatedRows((shape[0] * self.slices_per_network, *shape[1:]), [own, *copies])
        return found

    @property
    def remarks(self) -> list[str]:
        """How the source is read."""
        count, body = self.slices_per_network, self.first
        return [
            f"each expert of the source is read as {count} that have its units together, and write {count} times as much: "
            f"{len(body.each)} experts, of which a token goes through {body.per_token}"
        ]
