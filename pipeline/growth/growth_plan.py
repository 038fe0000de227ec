"""A growth plan: for each target tensor, the indices of the source that it is made of, their scales and noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from transformers import PretrainedConfig

from pipeline.families import Change, Family, Sizes
from pipeline.families.graph import Branch, Model
from pipeline.families.tensors import Tensor
from pipeline.growth.expert_copies import OpposedCopy, sign_of
from pipeline.growth.facts import Departure
from pipeline.growth.gates import Gates
from pipeline.growth.grown_tensor import GrownTensor, MeasuredTensor, Noise
from pipeline.growth.identity_norms import IdentityNorm
from pipeline.growth.index_map import INIT, AxisIndexMap
from pipeline.growth.initialization import InitializedTensor, initial_state
from pipeline.growth.new_tokenizer import NewTokenizer
from pipeline.growth.port_maps import PortMap
from pipeline.growth.positions import StretchedPositions
from pipeline.growth.row_views import AveragedRows
from pipeline.growth.source_form import SourceForm
from pipeline.growth.state import Blocks, Constant, Rows, Shifted, State
from pipeline.growth.token_rows import CarriedTokens
from pipeline.operators import Origin, Units
from pipeline.operators.base import Content
from pipeline.recipe import GrowthConfig

_NO_LAYER = Origin(None)


@dataclass(frozen=True)
class GrowthPlan:
    """How one model grows into another."""

    family: Family
    source: Sizes
    target: Sizes
    config: PretrainedConfig
    """The target's, its lists of layers those of the layers that it is made of."""
    source_graph: Model
    graph: Model
    """The target's."""
    growth: GrowthConfig
    """As resolved: `auto` has become the operator that was taken."""
    choices: list[str]
    """What was left open and how it was settled: sizes that no one named, and what `auto` took, each with the reason."""
    seed: int
    content: Content
    """What the width operator makes of the ports."""
    maps: Mapping[str, PortMap]
    """By port."""
    layers: list[Origin]
    """Of each of the target's layers; both models' are numbered through all of their stacks."""
    index_maps: Mapping[str, tuple[AxisIndexMap, ...]]
    """Of each tensor that is made of a source's, one a storage axis; the others are at the model's own initialization."""
    departures: list[Departure]
    """From the source's function, as derived from the graph."""
    context: Sequence[Change]
    """What makes the target attend otherwise than its source, on purpose."""
    tokens: AxisIndexMap
    """What the rows of the vocabulary's tables are made of."""
    form: SourceForm
    """How the source is read before it grows; `source` and `source_graph` are of what it is read as."""
    tokenizer: NewTokenizer | None = None
    """Where the target's is another than the source's."""
    optimizer: str | None = None
    """What steps the target, where that is known: adamw, lion or muon."""

    def grow(self, state: State, dtype: torch.dtype = torch.float32) -> dict[str, Rows]:
        """Return the target's state, computed in `dtype` or the source's wider one; nothing is computed until rows are read."""
        # Statistics of a source tensor are taken once for all that is made of it.
        measured = {name: MeasuredTensor(tensor) for name, tensor in self.form.state(state).items()}
        return {name: self._grown(tensor, measured, dtype) for name, tensor in self.tensors.items()}

    @property
    def takes_gates(self) -> bool:
        """Whether Adam's state of experts depends on what share of a token each of them gets."""
        return self.growth.optimizer_state == "grow" and self.form.gate_shares != ""

    def measuring_gates(self) -> "GrowthPlan":
        """Return the plan that says that these shares are still to be measured."""
        return replace(self, form=replace(self.form, measures=True))

    def with_gates(self, gates: Gates) -> "GrowthPlan":
        """Return the plan in which experts have these shares of Adam's state, which `form.measure` finds."""
        return replace(self, form=replace(self.form, measured=gates))

    @property
    def stored_graph(self) -> Model:
        """The source's, as it is stored."""
        return self.form.source_graph

    def annealed_over(self, steps: int) -> "GrowthPlan":
        """Return the plan whose weighted norms turn to stock norms over so many steps of training."""
        reason = f"norm_anneal_steps: {steps}, since the model is trained for no more steps, and ends with stock norms"
        growth = self.growth.model_copy(update={"norm_anneal_steps": steps})
        return replace(self, growth=growth, choices=[*self.choices, reason])

    @cached_property
    def carried(self) -> CarriedTokens:
        """The tokens that source and target both have."""
        target = (self.tokens.indices >= 0).nonzero().reshape(-1)
        return CarriedTokens(self.tokens.indices[target], target)

    @property
    def new_tokens(self) -> torch.Tensor:
        """The ids of the target whose rows the source does not have."""
        return (self.tokens.indices < 0).nonzero().reshape(-1)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The target's tensors by name."""
        return self.graph.tensors()

    @cached_property
    def source_tensors(self) -> Mapping[str, Tensor]:
        """The source's tensors by name."""
        return self.source_graph.tensors()

    @property
    def unties(self) -> bool:
        """Whether the target's output matrix is its own where the source's is its embedding."""
        return self.source_graph.head.tied and not self.graph.head.tied

    @cached_property
    def initial(self) -> Mapping[str, InitializedTensor]:
        """The target at the model's own random initialization."""
        return initial_state(self.tensors, self.graph.sizes, self.seed)

    def origin(self, tensor: Tensor) -> Origin:
        """Where the layer of a tensor comes from; what is of no layer is the source's own."""
        return _NO_LAYER if tensor.layer is None else self.layers[tensor.layer]

    def is_new_expert(self, tensor: Tensor) -> bool:
        """Whether a tensor is of an expert that the source does not have."""
        return tensor.expert is not None and tensor.expert >= self.source_graph.sizes["experts"]

    def source_name(self, tensor: Tensor, layer: int | None = None) -> str:
        """The source's tensor that a target's is made of; of another source layer, where one is given."""
        if tensor.layer is None:
            return self.family.head_alias.get(tensor.name, tensor.name) if self.unties else tensor.name
        name = self.source_graph.at_layer(tensor.name, self.origin(tensor).source_layer if layer is None else layer)
        if tensor.expert is not None:
            name = self.source_graph.of_expert(name, tensor.expert % self.source_graph.sizes["experts"])
        return name

    def next_layer(self, layer: int) -> int:
        """The source layer that new rows beside one may come from: the top layer has no next one, and its own stand in."""
        return min(layer + 1, self.source_graph.stack_of(layer).stop - 1)

    def source_names(self, tensor: Tensor, *, following: bool = False) -> dict[str, float]:
        """The source's tensors whose weighted sum a target's is made of; `following`: those of the next layers."""
        if tensor.layer is None:
            return {self.source_name(tensor): 1.0}
        origin, found = self.origin(tensor), {}
        for layer, weight in origin.average or ((origin.source_layer, 1.0),):
            name = self.source_name(tensor, self.next_layer(layer) if following else layer)
            # The next layer may be of another kind, with experts or without.
            found[name if name in self.source_tensors else self.source_name(tensor, layer)] = weight
        return found

    @cached_property
    def zero_output_values(self) -> Mapping[str, float]:
        """The tensors that have one value so that an added layer adds nothing: its last matrices and their biases.

        Where a norm reads what a branch gives it is that norm's gain: it would blow the first update of a zero matrix up to
        full size.
        """
        values: dict[str, float] = {}
        for origin, layer in zip(self.layers, self.graph.layers, strict=True):
            for branch in layer.branches if origin.zero_output else []:
                values |= dict.fromkeys(branch_writers(branch), 0.0)
                if branch.post is not None:
                    values[branch.post.gain] = 0.0 - branch.post.offset
        return values

    @cached_property
    def identity_norms(self) -> Mapping[str, Literal["gain", "bias"]]:
        """The gains and biases of norms that are to give back what comes in, in layers that add nothing: name -> which."""
        found: dict[str, Literal["gain", "bias"]] = {}
        for origin, layer in zip(self.layers, self.graph.layers, strict=True):
            for norm in [branch.ends for branch in layer.branches if origin.zero_output and branch.ends is not None]:
                found[norm.gain] = "gain"
                if norm.bias is not None:
                    found[norm.bias] = "bias"
        return found

    def layer_end(self, tensor: Tensor) -> tuple[str, str]:
        """The gain and the bias of the norm in which the source's layer ends; raises ValueError but for post-LN models."""
        end = self.source_graph.layers[self.origin(tensor).source_layer].branches[-1].ends
        if end is None or end.bias is None:
            raise ValueError(f"{tensor.name}: its layer ends in no LayerNorm")
        return end.gain, end.bias

    def _grown(self, tensor: Tensor, state: Mapping[str, MeasuredTensor], dtype: torch.dtype) -> Rows:
        name = tensor.name
        if name in self.zero_output_values:
            return Constant(tensor.shape(self.graph.sizes), self.zero_output_values[name])
        if name not in self.index_maps:
            return self.initial[name]
        own, following, maps = self._made_of(tensor, state)
        wide = torch.promote_types(own.rows(0, 1).dtype, dtype)
        # What is scaled is the gain itself, which the model makes of what is stored; what is copied stays as it is.
        offset = 0.0 if all(each.is_identity for each in self.index_maps[name]) else tensor.offset
        initial: Blocks = self.initial[name]
        if offset:
            own, following = (MeasuredTensor(Shifted(each, offset)) for each in (own, following))
            initial = Shifted(initial, offset)
        grown = GrownTensor(
            ("growth", self.seed, name),
            own,
            following,
            maps,
            dtype=torch.float64 if offset else wide,
            init=initial,
            small=self.growth.noise,
            noise=self.noise_of(tensor),
            shrink=self._shrink_of(tensor),
        )
        if name in self._opposed:
            first, sign = self._opposed[name]
            copied = maps[tensor.roles.index("in")].indices >= 0
            return OpposedCopy(grown, own, copied, ("experts", self.seed, first), sign * self.growth.noise)
        return Shifted(grown, -offset, wide) if offset else grown

    def _made_of(
        self, tensor: Tensor, state: Mapping[str, MeasuredTensor]
    ) -> tuple[MeasuredTensor, MeasuredTensor, tuple[AxisIndexMap, ...]]:
        """Return the source's tensor, that of the next layer, and the maps by which the target's is made of them."""
        name, maps = tensor.name, self.index_maps[tensor.name]
        if name in self.identity_norms:
            gain, bias = (state[each] for each in self.layer_end(tensor))
            norm = MeasuredTensor(IdentityNorm(self.identity_norms[name], gain, bias))
            return norm, norm, maps
        own = _summed(state, self.source_names(tensor))
        if self.stretches(tensor):
            size = self.graph.sizes["positions"]
            stretched = MeasuredTensor(StretchedPositions(own, size, self.family.position_offset))
            return stretched, stretched, (AxisIndexMap.identity(size), *maps[1:])
        if any(each.reads_next_layer for each in maps):
            return own, _summed(state, self.source_names(tensor, following=True)), maps
        return own, own, maps

    def _shrink_of(self, tensor: Tensor) -> float:
        """What the copies in a matrix that gets random channels, heads or units are multiplied by."""
        maps = zip(self.index_maps[tensor.name], tensor.axes, strict=True)
        grows = len(tensor.axes) > 1 and any(INIT in each.codes and "vocab" not in axis.ports for each, axis in maps)
        return self.growth.shrink if grows else 1.0

    @cached_property
    def _opposed(self) -> Mapping[str, tuple[str, float]]:
        """The last matrices of experts that are copied, where copies get opposite noise: the pair's first, and the sign."""
        if self.growth.symmetry == "none" or not self.copies_experts:
            return {}
        old, new = self.source_graph.sizes["experts"], self.graph.sizes["experts"]
        pairs = [(number, *sign_of(number, new, old)) for number in range(new)]
        return {
            body.each[number].last.weight: (body.each[first].last.weight, sign)
            for _, body in self.graph.experts
            for number, first, sign in pairs
            if sign
        }

    @property
    def draws_experts_units(self) -> bool:
        """Whether new units of experts are drawn at random, so that copies of an expert differ."""
        port = self.graph.expert_port
        return port is not None and self.maps[port].grows and self.content.zero_output_units

    @property
    def copies_experts(self) -> bool:
        """Whether the target's experts are the source's several times, each of them as often."""
        old, new = (graph.sizes.get("experts", 0) for graph in (self.source_graph, self.graph))
        return 0 < old < new and new % old == 0

    def stretches(self, tensor: Tensor) -> bool:
        """Whether a tensor is a table of positions that is stretched."""
        return (
            self.growth.positions == "interpolate"
            and "positions" in tensor.axes[0].ports
            and self.graph.sizes["positions"] > self.source_graph.sizes["positions"]
        )

    def noise_of(self, tensor: Tensor) -> Noise | None:
        """Return the noise on a tensor's copies."""
        if self.growth.noise == 0 or len(tensor.axes) == 1:
            return None
        if self.growth.symmetry != "none":
            summed = [number for number, role in enumerate(tensor.roles) if role == "in"]
            return Noise(self.growth.symmetry, self.growth.noise, summed[0]) if summed else None
        return Noise("new", self.growth.noise, 0) if self.content.units is Units.COPY else None


def _summed(state: Mapping[str, MeasuredTensor], weights: Mapping[str, float]) -> MeasuredTensor:
    """Return the weighted sum of tensors, or the one of which there is no other."""
    weighted = [(state[name], weight) for name, weight in weights.items()]
    return weighted[0][0] if len(weighted) == 1 else MeasuredTensor(AveragedRows(weighted))


def branch_writers(branch: Branch) -> list[str]:
    """The tensors that decide how much a branch adds: its last matrix and bias, or gain and bias of the norm behind them."""
    if branch.post is not None:
        names = [branch.post.gain, branch.post.bias]
    else:
        names = [name for last in branch.writers for name in (last.weight, last.bias)]
    return [name for name in names if name is not None]
