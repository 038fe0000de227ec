"""The growth plan: for each target tensor, the indices of the source that it is made of, their scales and noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families import Change, Family, Sizes, carry_layer_lists, context_changes, drop_intervals, family_of, sizes_of
from pipeline.families.graph import Branch, Experts, Model, Norm
from pipeline.families.tensors import Tensor
from pipeline.growth.added_steps import ADDED_STEPS_LEFT, added_steps_left
from pipeline.growth.auto_operators import resolve_auto
from pipeline.growth.averages import AveragedRows
from pipeline.growth.axis_rules import AxisRules
from pipeline.growth.deadlock import Deadlock
from pipeline.growth.derivation import Derivation
from pipeline.growth.expert_copies import OpposedCopy, sign_of
from pipeline.growth.facts import Departure
from pipeline.growth.gates import Gates
from pipeline.growth.grown_tensor import GrownTensor, MeasuredTensor, Noise
from pipeline.growth.identity_norms import IdentityNorm
from pipeline.growth.index_map import INIT, SMALL, AxisIndexMap
from pipeline.growth.initialization import drawing, initial_state
from pipeline.growth.layer_origins import layer_origins
from pipeline.growth.moments import Kept, MomentMaps, fresh_adam, grown_kept, moment_maps, optimizers_of, stepped
from pipeline.growth.new_tokenizer import NewTokenizer
from pipeline.growth.port_maps import PortMap, build_maps
from pipeline.growth.positions import StretchedPositions
from pipeline.growth.state import Constant, OptimizerState, Rows, Shifted, State
from pipeline.growth.token_rows import CarriedTokens, TokenRows, describe_tokens
from pipeline.growth.upcycling import Upcycling, plan_upcycling
from pipeline.operators import WIDTH, Origin, Stream, Units
from pipeline.operators.base import Content, StreamNorms
from pipeline.recipe import GrowthConfig
from pipeline.recipe.growth import AUTO


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
    tokenizer: NewTokenizer | None = None
    """Where the target's is another than the source's."""
    upcycling: Upcycling | None = None
    """How the source is read as a mixture of experts before it grows; `source` and `source_graph` are then that mixture's."""
    optimizer: str | None = None
    """What steps the target, where that is known: adamw, lion or muon."""

    def grow(self, state: State, dtype: torch.dtype = torch.float32) -> dict[str, Rows]:
        """Return the target's state, computed in `dtype` or the source's wider one; nothing is computed until rows are read."""
        state = state if self.upcycling is None else self.upcycling.state(state)
        # Statistics of a source tensor are taken once for all that is made of it.
        measured = {name: MeasuredTensor(tensor) for name, tensor in state.items()}
        return {name: self._grown(tensor, measured, dtype) for name, tensor in self.tensors.items()}

    def begin_optimizer(self, optimizer: OptimizerState | None) -> OptimizerState | None:
        """Return what the target's optimizer begins with, given the source's, and which elements are new; None for nothing.

        Raises UserError as `grow_optimizer` does.
        """
        grown = self.grow_optimizer(optimizer) if self.growth.optimizer_state == "grow" else {}
        left = self._added_steps_left(optimizer or {})
        return {name: {**grown.get(name, {}), **left.get(name, {})} for name in grown or left} or None

    def _added_steps_left(self, optimizer: OptimizerState) -> OptimizerState:
        """Return for how many steps more elements have a rate of their own; of tensors that have none, nothing."""
        steps = float(self.growth.added.steps)
        if not steps:
            return {}
        before = {name: kept.get(ADDED_STEPS_LEFT, 0.0) for name, kept in optimizer.items()}
        before = before if self.upcycling is None else self.upcycling.added_steps_left(before, steps)
        made: dict[tuple[int, ...], tuple[AxisIndexMap, ...]] = {}
        found: dict[str, Kept] = {}
        for name, tensor in self.tensors.items():
            if tensor.buffer:
                continue
            left: Rows | float = steps
            if not self._is_new(tensor):
                left = added_steps_left(
                    before.get(self.source_name(tensor), 0.0),
                    tensor.shape(self.source_graph.sizes),
                    self.index_maps[name],
                    steps,
                    made,
                )
            found |= {} if left == 0.0 else {name: {ADDED_STEPS_LEFT: left}}
        return found

    def _is_new(self, tensor: Tensor) -> bool:
        """Whether no element of a tensor is one of the source's own."""
        added = tensor.layer is not None and self.layers[tensor.layer].added
        own_head = self.unties and tensor.name in self.family.head_alias
        expert = tensor.expert is not None and tensor.expert >= self.source_graph.sizes["experts"]
        return added or own_head or expert or tensor.name not in self.index_maps or self.stretches(tensor)

    def grow_optimizer(self, optimizer: OptimizerState | None) -> OptimizerState:
        """Return the optimizer's state of the target (`moments.py` has the rule).

        Raises UserError where the source has none, or one of another optimizer than that which trains the target.
        """
        adamw, optimizer = self._kept_by(optimizer) == "adamw", stepped(optimizer or {})
        optimizer = optimizer if self.upcycling is None else self.upcycling.optimizer(optimizer)
        tensors = {name: tensor for name, tensor in self.tensors.items() if not tensor.buffer}
        return {name: self._grown_kept(tensor, optimizer, adamw=adamw) for name, tensor in tensors.items()}

    def going_on_from(self, optimizer: OptimizerState | None) -> "GrowthPlan":
        """Return the plan of a target that the source's optimizer steps, of which this is kept; raises as `grow_optimizer`."""
        return replace(self, optimizer=self._kept_by(optimizer))

    def _kept_by(self, optimizer: OptimizerState | None) -> str:
        """Return which optimizer kept this of the source; raises UserError where none that the target goes on from."""
        optimizer = stepped(optimizer or {})
        if not optimizer:
            raise UserError(
                "growth.optimizer_state: grow needs the source's optimizer state, which neither a Hugging Face directory nor a "
                "checkpoint grown without it holds; name a run directory, a checkpoint of one or a DeepSpeed checkpoint "
                "(of transformers' Trainer: output_dir/checkpoint-N), or choose fresh"
            )
        (kept_by, *_) = found = optimizers_of(optimizer, self.stored_graph.tensors())
        if self.optimizer not in (None, *found):
            raise UserError(
                f"optimizer.name: {self.optimizer} does not go on from what the source's optimizer kept, which is {kept_by}; "
                f"name {kept_by}, or growth.optimizer_state: fresh"
            )
        if self.growth.element_rates and kept_by != "adamw":
            raise UserError(
                f"growth.element_rates: adamw alone has rates of elements; the source's optimizer is {kept_by}, leave it out"
            )
        return self.optimizer or kept_by

    @property
    def takes_gates(self) -> bool:
        """Whether Adam's state of experts depends on what share of a token each of them gets."""
        return self.growth.optimizer_state == "grow" and self.upcycling is not None and not self.upcycling.gates_stay

    def measuring_gates(self) -> "GrowthPlan":
        """Return the plan that says that these shares are still to be measured."""
        return replace(self, upcycling=replace(self.upcycling, measures=True))

    def with_gates(self, gates: Gates) -> "GrowthPlan":
        """Return the plan in which experts have these shares of Adam's state, which `upcycling.measure` finds."""
        return replace(self, upcycling=replace(self.upcycling, measured=gates))

    @property
    def remarks(self) -> list[str]:
        """What a person must know of how the source is read: sentences without a full stop."""
        return [] if self.upcycling is None else self.upcycling.remarks

    @property
    def stored(self) -> Sizes:
        """The source's, as it is stored."""
        return self.source if self.upcycling is None else sizes_of(self.upcycling.source)

    @property
    def stored_graph(self) -> Model:
        """The source's, as it is stored."""
        return self.source_graph if self.upcycling is None else self.upcycling.source_graph

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
    def source_tensors(self) -> dict[str, Tensor]:
        """The source's tensors by name."""
        return self.source_graph.tensors()

    @property
    def unties(self) -> bool:
        """Whether the target's output matrix is its own where the source's is its embedding."""
        return self.source_graph.head.tied and not self.graph.head.tied

    @cached_property
    def initial(self) -> State:
        """The target at the model's own random initialization."""
        return initial_state(self.tensors, self.graph.sizes, self.seed)

    def source_name(self, tensor: Tensor, layer: int | None = None) -> str:
        """The source's tensor that a target's is made of; of another source layer, where one is told."""
        if tensor.layer is None:
            return self.family.head_alias.get(tensor.name, tensor.name) if self.unties else tensor.name
        origin = self.layers[tensor.layer].source if layer is None else layer
        name = self.source_graph.at_layer(tensor.name, origin)
        if tensor.expert is not None:
            name = self.source_graph.of_expert(name, tensor.expert % self.source_graph.sizes["experts"])
        return name

    def next_layer(self, layer: int) -> int:
        """The source layer that new rows beside one may come from: the top layer has no next one, and its own stand in."""
        return min(layer + 1, self.source_graph.stack_of(layer).stop - 1)

    def source_names(self, tensor: Tensor, *, following: bool = False) -> dict[str, float]:
        """The source's tensors whose weighted sum a target's is made of; `following`: those of the next layers."""
        origin, found = self.layers[tensor.layer], {}
        for layer, weight in origin.average or ((origin.source, 1.0),):
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
                values |= dict.fromkeys(_writers(branch), 0.0)
                if branch.post is not None:
                    values[branch.post.gain] = 0.0 - branch.post.offset
        return values

    @cached_property
    def identity_norms(self) -> Mapping[str, str]:
        """The gains and biases of norms that are to give back what comes in, in layers that add nothing: name -> which."""
        found: dict[str, str] = {}
        for origin, layer in zip(self.layers, self.graph.layers, strict=True):
            for norm in [branch.ends for branch in layer.branches if origin.zero_output and branch.ends is not None]:
                found |= {norm.gain: "gain", norm.bias: "bias"}
        return found

    def layer_end(self, layer: int) -> Norm:
        """The norm that a post-LN layer of the source ends in."""
        return self.source_graph.layers[layer].branches[-1].ends

    def _grown(self, tensor: Tensor, state: Mapping[str, MeasuredTensor], dtype: torch.dtype) -> Rows:
        name = tensor.name
        if name in self.zero_output_values:
            return Constant(tensor.shape(self.graph.sizes), self.zero_output_values[name])
        if name not in self.index_maps:
            return self.initial[name]
        maps = self.index_maps[name]
        own = following = state[self.source_name(tensor)] if tensor.layer is None else _summed(state, self.source_names(tensor))
        if any(each.reads_next_layer for each in maps):
            following = _summed(state, self.source_names(tensor, following=True))
        if name in self.identity_norms:
            end = self.layer_end(self.layers[tensor.layer].source)
            own = following = MeasuredTensor(IdentityNorm(self.identity_norms[name], state[end.gain], state[end.bias]))
        if self.stretches(tensor):
            size = self.target.max_position_embeddings
            own = following = MeasuredTensor(StretchedPositions(own, size, self.family.position_offset))
            maps = (AxisIndexMap.identity(size), *maps[1:])
        # What is scaled is the gain itself, which the model makes of what is stored; what is copied stays as it is.
        initial, offset = self.initial[name], 0.0 if all(each.is_identity for each in maps) else tensor.offset
        wide = torch.promote_types(_dtype_of(own), dtype)
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
        if tensor.name in self._opposed:
            first, sign = self._opposed[tensor.name]
            copied = maps[tensor.roles.index("in")].indices >= 0
            return OpposedCopy(grown, own, copied, ("experts", self.seed, first), sign * self.growth.noise)
        return Shifted(grown, -offset, wide) if offset else grown

    def _shrink_of(self, tensor: Tensor) -> float:
        """What the copies in a matrix that gets random channels, heads or units are multiplied by."""
        maps = zip(self.index_maps[tensor.name], tensor.axes, strict=True)
        grows = len(tensor.axes) > 1 and any(INIT in each.codes and "vocab" not in axis.ports for each, axis in maps)
        return self.growth.shrink if grows else 1.0

    @cached_property
    def _opposed(self) -> Mapping[str, tuple[str, float]]:
        """The last matrices of experts that are copied, where copies get opposite noise: the pair's first, and the sign."""
        found: dict[str, tuple[str, float]] = {}
        if self.growth.symmetry == "none" or not self.copies_experts:
            return found
        old, new = self.source_graph.sizes["experts"], self.graph.sizes["experts"]
        for body in [branch.body for layer in self.graph.layers for branch in layer.branches]:
            for number, network in enumerate(body.each if isinstance(body, Experts) else ()):
                first, sign = sign_of(number, new, old)
                if sign:
                    found[network.last.weight] = body.each[first].last.weight, sign
        return found

    @property
    def draws_experts_units(self) -> bool:
        """Whether new units of experts are drawn at random, so that copies of an expert differ."""
        port = self.graph.expert_port
        return port is not None and self.maps[port].grows and self.content.zero_output_units

    @property
    def copies_experts(self) -> bool:
        """Whether the target's experts are the source's several times, each of them as often."""
        old, new = self.source.num_experts, self.target.num_experts
        return self.source_graph.expert_port is not None and new > old and new % old == 0

    def _grown_kept(self, tensor: Tensor, optimizer: OptimizerState, *, adamw: bool) -> Kept:
        rates = self.growth.element_rates
        source, following = self._kept_of_sources(tensor, optimizer)
        if not source and not following:  # new, or frozen throughout
            # Beside Muon, which keeps other things of matrices, and Lion, which has no bias correction, nothing is said of it.
            return fresh_adam(tensor.shape(self.graph.sizes), rates) if adamw else {}
        return grown_kept(source, following, tensor.shape(self.source_graph.sizes), self._moment_maps(tensor), rates)

    def _kept_of_sources(self, tensor: Tensor, optimizer: OptimizerState) -> tuple[Kept, Kept]:
        """Return what is kept of the source's tensor that one is made of, and of the one that rows of the next layer are of.

        Nothing is of one that starts fresh: it is drawn, has one value, or is made of several.
        """
        made = tensor.name in self.index_maps and not self.stretches(tensor)
        if tensor.layer is not None and self.layers[tensor.layer].added:
            takes = self.growth.new_moments in ("copied", "scaled") and not self.layers[tensor.layer].average
            made = made and takes and tensor.name not in self.zero_output_values and tensor.name not in self.identity_norms
        if not made:
            return {}, {}
        source = optimizer.get(self.source_name(tensor), {})
        if not any(each.reads_next_layer for each in self.index_maps[tensor.name]):
            return source, source
        (name,) = self.source_names(tensor, following=True)
        return source, optimizer.get(name, {})

    @property
    def takes_moments(self) -> bool:
        """Whether any element has the moments of one whose gradient it does not share."""
        if self.growth.new_moments not in ("copied", "scaled"):
            return False
        repeated = any(origin.added and origin.source is not None and not origin.average for origin in self.layers)
        maps = {id(each): each for maps in self.index_maps.values() for each in maps}
        # Copies with noise have what others have, unless they have their source's as they are.
        unlike = self.growth.noise != 0 and self.growth.new_moments == "copied"
        others = (each.copied & (~each.keeps_moments | each.new if unlike else ~each.keeps_moments) for each in maps.values())
        return repeated or any(bool(each.any()) for each in others)

    def _moment_maps(self, tensor: Tensor) -> MomentMaps:
        """The maps of what is kept of a tensor, by its own maps, so that they are worked out once for all layers."""
        maps, noisy = self.index_maps[tensor.name], self.growth.noise != 0
        added = tensor.layer is not None and self.layers[tensor.layer].added
        copy = noisy and tensor.expert is not None and tensor.expert >= self.source_graph.sizes["experts"]
        shares = not (added or (copy and self.growth.new_moments != AUTO))
        key = (*map(id, maps), shares)
        if key not in self._made_moment_maps:
            options = {"shares": shares, "noisy": noisy}
            self._made_moment_maps[key] = moment_maps(maps, self.growth.element_rates, self.growth.new_moments, **options)
        return self._made_moment_maps[key]

    @cached_property
    def _made_moment_maps(self) -> dict[tuple[int, ...], MomentMaps]:
        return {}

    def stretches(self, tensor: Tensor) -> bool:
        """Whether a tensor is a table of positions that is stretched."""
        return (
            self.growth.positions == "interpolate"
            and "positions" in tensor.axes[0].ports
            and self.target.max_position_embeddings > self.source.max_position_embeddings
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
    parts = [(state[name], weight) for name, weight in weights.items()]
    return parts[0][0] if len(parts) == 1 else MeasuredTensor(AveragedRows(parts))


def _dtype_of(tensor: Rows) -> torch.dtype:
    """The dtype that a tensor's rows come in."""
    return tensor.rows(0, 1).dtype


def plan_growth(
    source: PretrainedConfig,
    target: PretrainedConfig,
    growth: GrowthConfig,
    seed: int,
    *,
    derived: Sequence[str] = (),
    stock: bool = False,
    tokenizer: NewTokenizer | None = None,
    where: str = "target.",
    optimizer: str | None = None,
) -> GrowthPlan:
    """Return the plan that grows a model of one configuration into the other.

    `derived` says which sizes of the target were worked out and how. `stock` keeps `auto` from weighted norms, which no file
    can hold. `tokenizer` is the target's where that is another than the source's; `where` stands before keys of the target;
    `optimizer` is the name of what steps the target, where that is known.
    Raises UserError for sizes that the operator cannot reach, and for options that leave parts of the target without a
    gradient for ever.
    """
    target = drawing(target, growth)
    upcycling = plan_upcycling(source, target, growth, seed, where)
    source = source if upcycling is None else upcycling.config
    family = family_of(source, "source")
    old = family.graph(source)
    growth = _filling(growth, tokenizer)
    growth, choices = resolve_auto(growth, old, sizes_of(source), sizes_of(target), stock=stock)
    operator = WIDTH[growth.width]
    layers = layer_origins(growth, old, sizes_of(target).depths)
    _refuse_unlike_averages(old, layers)
    said = [] if tokenizer is None else tokenizer.set_token_ids(source, target)
    carry_layer_lists(source, target, [origin.source for origin in layers])
    drop_intervals(target)
    new = family.graph(target)
    maps = build_maps(old.sizes, new.sizes, operator, growth, seed)
    content = operator.content(growth.model_dump(), StreamNorms(old.stream_norm, write=not old.holds_means))
    heads = new.norms_all_heads and not content.fills and maps["heads"].grows
    experts = (upcycling is not None and not upcycling.splits) or (old.expert_port is not None and _more(old, new, "experts"))
    copies = content.units is Units.COPY or content.stream is Stream.COPY or heads or experts
    _refuse_idle_options(growth, family, old, copies=copies)
    known = TokenRows.first(min(old.sizes["vocab"], new.sizes["vocab"])) if tokenizer is None else tokenizer.rows
    tokens = known.index_map(new.sizes["vocab"], growth.vocabulary)
    said += [] if tokenizer is None else describe_tokens(tokens, old.sizes["vocab"], growth.vocabulary)
    rules = AxisRules(old, new, growth, content, maps, family.position_offset, tokens, copies_experts=experts)
    derivation = Derivation(old, new, rules, layers)
    if experts and rules.zero_output and maps[new.expert_port].grows:
        said.append("new units of experts are drawn, others in each, and write nothing at first: copies learn different things")
    plan = GrowthPlan(
        family=family,
        source=sizes_of(source),
        target=sizes_of(target),
        config=target,
        source_graph=old,
        graph=new,
        growth=growth,
        choices=[*derived, *choices, *said],
        seed=seed,
        content=content,
        maps=maps,
        layers=layers,
        index_maps=_scaled_layers(derivation.maps, new, layers),
        departures=[*(upcycling.departures if upcycling else ()), *derivation.departures],
        context=tuple(context_changes(family, source, target)),
        tokens=tokens,
        tokenizer=tokenizer,
        upcycling=upcycling,
        optimizer=optimizer,
    )
    _refuse_deadlock(plan)
    return plan


def _writers(branch: Branch) -> list[str]:
    """The tensors that decide how much a branch adds: its last matrix and bias, or gain and bias of the norm behind them."""
    if branch.post is not None:
        names = [branch.post.gain, branch.post.bias]
    else:
        names = [name for last in branch.writers for name in (last.weight, last.bias)]
    return [name for name in names if name is not None]


def _scaled_layers(
    maps: Mapping[str, tuple[AxisIndexMap, ...]], model: Model, origins: Sequence[Origin]
) -> Mapping[str, tuple[AxisIndexMap, ...]]:
    """Return the maps with what a layer adds multiplied by its scale."""
    scaled, made = dict(maps), {}
    for origin, layer in zip(origins, model.layers, strict=True):
        for name in [name for branch in layer.branches if origin.scale != 1.0 for name in _writers(branch)]:
            # Layers that are made alike keep the same maps.
            key = id(maps[name]), origin.scale
            made.setdefault(key, (maps[name][0].times(origin.scale), *maps[name][1:]))
            scaled[name] = made[key]
    return scaled


def _refuse_unlike_averages(source: Model, origins: Sequence[Origin]) -> None:
    """Layers that attend otherwise, or have other norms, have no average."""
    for origin in origins:
        layers = [layer for layer, _ in origin.average]
        if any(source.layers[layer].form != source.layers[layers[0]].form for layer in layers):
            named = " and ".join(map(str, layers))
            raise UserError(
                f"growth.layers: layers {named} differ in their windows, positions or norms, and have no average; average "
                "layers of one kind"
            )


def _filling(growth: GrowthConfig, tokenizer: NewTokenizer | None) -> GrowthConfig:
    """Return the growth with the rows of new tokens settled; raises UserError for pieces of tokens that are not known."""
    if growth.vocabulary == "pieces" and tokenizer is None:
        raise UserError(
            "growth.vocabulary: pieces are those that the source's tokenizer makes of another's tokens; name target.tokenizer "
            "(launch/grow.py: --tokenizer), or choose mean"
        )
    if growth.vocabulary != AUTO:
        return growth
    return growth.model_copy(update={"vocabulary": "mean" if tokenizer is None else "pieces"})


def _more(old: Model, new: Model, port: str) -> bool:
    return new.sizes.get(port, 0) > old.sizes.get(port, 0)


def _refuse_idle_options(growth: GrowthConfig, family: Family, model: Model, *, copies: bool) -> None:
    """An option without anything to act on is a misunderstanding."""
    if growth.positions == "interpolate" and "positions" not in model.sizes:
        raise UserError(f"growth.positions: {family.name} has no table of positions to interpolate; leave the option out")
    if growth.symmetry != "none" and not copies:
        raise UserError(f"growth.symmetry: {growth.width} makes no copies of {family.name}'s channels; leave it out")


_NAMED = 4
"""Tensors that a refusal names."""


def _refuse_deadlock(plan: GrowthPlan) -> None:
    """Zeros on both sides of a product have no gradient, ever."""
    growth = plan.growth
    walk = Deadlock(plan.graph, plan.tensors, plan.index_maps, plan.zero_output_values, plan.layers, small=growth.noise != 0)
    dead = walk.dead()
    if not dead:
        return
    # An added layer alone is the depth operator's.
    deep = all(one.tensor.layer is not None and plan.layers[one.tensor.layer].added for one in dead)
    key, operator = ("depth", growth.depth) if deep else ("width", growth.width)
    named = ", ".join(map(str, dead[:_NAMED])) + (f" and more of {len(dead) - _NAMED} tensors" if len(dead) > _NAMED else "")
    maps = [each for one in dead for each in plan.index_maps.get(one.tensor.name, ())]
    small = "set growth.noise for small values there (0.02, say), or " if any(SMALL in each.codes for each in maps) else ""
    raise UserError(
        f"growth.{key}: {operator} leaves both sides of a product zero, and so without a gradient for ever: {named}; "
        f"{small}choose {key}: auto"
    )
