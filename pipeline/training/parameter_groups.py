"""A model's parameters in groups, each of which learns or is frozen as one."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from pipeline.common.errors import UserError
from pipeline.families import NO_MIXTURES, ActiveLayers, Mixtures
from pipeline.families.graph import Model
from pipeline.families.tensors import Tensor
from pipeline.recipe import TrainStage

HEAD = "head"
EMBEDDINGS = "embeddings"
ADDED = "added"
LAYERS = "layers"
ROUTER = "router"
EXPERTS = "experts"
NEW_TOKENS = "new_tokens"


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """The embeddings, the head (with a tied embedding), or consecutive layers; or some of one of these."""

    name: str
    layers: range = range(0)
    mixture: Literal["router", "expert", "shared_expert"] | None = None
    """What of these layers' mixtures of experts it is, where it is not the layers as a whole."""
    experts: range = range(0)
    """Of the experts, those with these numbers."""
    holds: "ParameterGroup | None" = None
    """The group of the matrices that hold its rows, where it is the rows of new tokens."""

    @classmethod
    def of_layers(cls, first: int, stop: int) -> "ParameterGroup":
        """The layers [first, stop)."""
        return cls(f"layers.{first}-{stop - 1}", range(first, stop))

    @property
    def new_tokens(self) -> "ParameterGroup":
        """The rows of new tokens in its matrices."""
        return ParameterGroup(f"{self.name}.{NEW_TOKENS}", holds=self)

    def rows(self, numbers: torch.Tensor, new_tokens: torch.Tensor) -> torch.Tensor:
        """Return its own among the rows of a parameter that it shares with other groups."""
        if self.mixture is not None:
            return numbers[self.experts.start : self.experts.stop]
        return numbers[torch.isin(numbers, new_tokens, invert=self.holds is None)]

    def of_mixtures(self, mixtures: Mixtures, *, routers: bool, experts: Sequence[range]) -> list["ParameterGroup"]:
        """Return the groups within its mixtures: the routers, by choice, and the experts in ranges, where any are given."""
        if mixtures.layers.isdisjoint(self.layers):
            return []
        each = [
            ParameterGroup(f"{self.name}.experts.{some.start}-{some.stop - 1}", self.layers, "expert", some) for some in experts
        ]
        shared = (
            [ParameterGroup(f"{self.name}.shared_expert", self.layers, "shared_expert")] if each and mixtures.shared else []
        )
        return [*([ParameterGroup(f"{self.name}.router", self.layers, "router")] if routers else []), *each, *shared]

    def learns(self, active: ActiveLayers) -> bool:
        """Whether all of it learns with these."""
        if self.holds is not None:
            return active.new_tokens or self.holds.learns(active)
        if self.name in (EMBEDDINGS, HEAD):
            return active.embeddings if self.name == EMBEDDINGS else active.head
        return active.layers.issuperset(self.layers) or active.mixture_learns(self.mixture, self.experts)


def naming_added(stage: TrainStage, added: Sequence[int]) -> TrainStage:
    """Return the stage with the layers that its model's growth added in the place of the selector `added`.

    Raises UserError where the stage selects them and there are none.
    """

    def named(selectors: Sequence[str], where: str) -> list[str]:
        if ADDED in selectors and not added:
            raise UserError(f"{where}: `added` where the model's growth adds no layers; name others")
        return [one for each in selectors for one in ([f"layers.{layer}" for layer in added] if each == ADDED else [each])]

    where = f"stages.{stage.name}"
    settings = [
        each.model_copy(update={"parameters": named(each.parameters, f"{where}.groups.{number}")})
        for number, each in enumerate(stage.groups)
    ]
    trainable = None if stage.trainable is None else named(stage.trainable, f"{where}.trainable")
    return stage.model_copy(update={"groups": settings, "trainable": trainable})


def selects(stage: TrainStage, selector: str) -> bool:
    """Whether a stage trains, or rates, parameters by a selector."""
    return any(selector in each for each in (stage.trainable or (), *(each.parameters for each in stage.groups)))


def active_layers_of(selectors: Sequence[str], layers: int, where: str, mixtures: Mixtures = NO_MIXTURES) -> ActiveLayers:
    """Return what runs and learns where the selected parameters of a whole model learn.

    Raises UserError, which begins with `where`, for a layer or an expert that the model does not have.
    """
    chosen: dict[str, set[int]] = {LAYERS: set(), EXPERTS: set()}
    counts = {LAYERS: layers, EXPERTS: mixtures.experts}
    of_mixture = [selector for selector in selectors if selector.partition(".")[0] in (ROUTER, EXPERTS)]
    if of_mixture and not mixtures.layers:
        raise UserError(f"{where}: {of_mixture[0]!r} where the model is no mixture of experts; leave it out")
    for selector in selectors:
        kind, _, numbers = selector.partition(".")
        if kind not in counts:
            continue
        first, _, last = numbers.partition("-")
        begin, count = int(first or 0), counts[kind]
        stop = int(last or first) + 1 if first else count
        if not begin < stop <= count:
            raise UserError(f"{where}: {selector!r} where the model has {kind} 0 to {count - 1}; name some of those")
        chosen[kind] |= set(range(begin, stop))
    return ActiveLayers(
        layers,
        frozenset(chosen[LAYERS]),
        embeddings=EMBEDDINGS in selectors,
        head=HEAD in selectors,
        new_tokens=NEW_TOKENS in selectors,
        routers=ROUTER in selectors,
        experts=frozenset(chosen[EXPERTS]),
        shared_experts=EXPERTS in selectors and mixtures.shared,
        mixtures=mixtures.layers if of_mixture else frozenset(),
    )


def cut(layers: int, stages: Sequence[TrainStage], mixtures: Mixtures = NO_MIXTURES) -> list[ParameterGroup]:
    """Return the fewest groups of which all is made up that any of the stages trains, or rates by itself.

    Raises UserError naming the stage's key where sub-models do not divide the layers, or groups overlap or have no effect.
    """
    cuts, routers, experts = {0, layers}, False, set[int]()
    for stage in stages:
        where = f"stages.{stage.name}"
        if stage.submodel_layers is not None:
            if layers % stage.submodel_layers:
                raise UserError(
                    f"{where}.submodel_layers: {stage.submodel_layers} does not divide the model's {layers} layers; choose a "
                    "divisor"
                )
            cuts |= set(range(0, layers, stage.submodel_layers))
        chosen_groups = [
            active_layers_of(each.parameters, layers, f"{where}.groups.{n}", mixtures) for n, each in enumerate(stage.groups)
        ]
        for one, other in itertools.combinations(chosen_groups, 2):
            if _meet(one, other, mixtures):
                raise UserError(f"{where}.groups: two of them claim the same parameters; name each once")
        learning = _learning(stage, layers, mixtures)
        for number, active in enumerate(chosen_groups):
            # Where all of a matrix learns, its new rows do.
            rows = active.new_tokens and (learning.embeddings or learning.head)
            if not (rows or _meet(active, learning, mixtures)):
                raise UserError(f"{where}.groups.{number}: the stage trains none of these parameters; leave the group out")
            if (active.embeddings or active.new_tokens) and stage.submodel_layers is not None:
                raise UserError(f"{where}.groups.{number}: embeddings are frozen with submodel_layers; leave them out")
        for active in (*chosen_groups, learning):
            cuts |= _borders(active.layers, layers)
            routers |= active.routers
            if active.experts:
                experts |= {0, mixtures.experts} | _borders(active.experts, mixtures.experts)
    groups, ranges = [ParameterGroup(EMBEDDINGS)], list(itertools.starmap(range, itertools.pairwise(sorted(experts))))
    for first, stop in itertools.pairwise(sorted(cuts)):
        group = ParameterGroup.of_layers(first, stop)
        groups += [group, *(group.of_mixtures(mixtures, routers=routers, experts=ranges) if routers or experts else [])]
    groups.append(ParameterGroup(HEAD))
    if any(selects(stage, NEW_TOKENS) for stage in stages):
        groups += [groups[0].new_tokens, groups[-1].new_tokens]
    return groups


def _borders(chosen: frozenset[int], count: int) -> set[int]:
    """Where what is chosen of `count` things in a row begins and ends."""
    return {number for number in range(1, count) if (number in chosen) != (number - 1 in chosen)}


def _meet(one: ActiveLayers, other: ActiveLayers, mixtures: Mixtures) -> bool:
    """Whether something learns in both."""
    alike = (one.head and other.head, one.embeddings and other.embeddings, one.new_tokens and other.new_tokens)
    return bool(_in_layers(one, mixtures) & _in_layers(other, mixtures)) or any(alike)


def _in_layers(active: ActiveLayers, mixtures: Mixtures) -> set[tuple[int, str | int | None]]:
    """What of each layer learns: its mixture's router, its experts by number, and the rest."""
    found: set[tuple[int, str | int | None]] = {(layer, None) for layer in active.layers}
    for layer in mixtures.layers:
        whole = layer in active.layers
        found |= {(layer, expert) for expert in (range(mixtures.experts) if whole else active.experts)}
        found |= {(layer, ROUTER)} if whole or active.routers else set()
        found |= {(layer, EXPERTS)} if whole or active.shared_experts else set()
    return found


def _learning(stage: TrainStage, layers: int, mixtures: Mixtures) -> ActiveLayers:
    """All that learns in any step of a stage."""
    if stage.trainable is not None:
        return active_layers_of(stage.trainable, layers, f"stages.{stage.name}.trainable", mixtures)
    return replace(ActiveLayers.whole(layers), embeddings=stage.submodel_layers is None)


def check_learns(graph: Model, stage: TrainStage, *, new_tokens: bool = False) -> None:
    """Raise UserError where nothing of what a stage trains, or rates by itself, is there, for stages that `cut` takes.

    `new_tokens`: whether the model's growth added any.
    """
    where, layers, mixtures = f"stages.{stage.name}", len(graph.layers), graph.mixtures
    if selects(stage, NEW_TOKENS) and not new_tokens:
        raise UserError(
            f"{where}: `new_tokens` where the model's growth adds no rows to its vocabulary; name target.tokenizer or a larger "
            "target.vocab_size, or leave it out"
        )
    learnt = active_layers_of(stage.trainable or (), layers, where, mixtures)
    tables = {tensor.group for tensor in token_tables(graph)}
    if learnt.new_tokens and all(ParameterGroup(table).learns(learnt) for table in tables):
        whole = " and ".join(sorted(tables))
        raise UserError(f"{where}.trainable: `new_tokens` are rows of {whole}, which the stage trains as a whole; leave it out")
    there = {tensor.group for tensor in graph.tensors().values()}
    if EMBEDDINGS in there:
        return
    tied = "this model's only embedding is tied to the head and learns with it; name head"
    learning = _learning(stage, layers, mixtures)
    if not (learning.layers or learning.mixtures or learning.head or learning.new_tokens):
        raise UserError(f"{where}.trainable: {tied}")
    for number, each in enumerate(stage.groups):
        active = active_layers_of(each.parameters, layers, f"{where}.groups.{number}", mixtures)
        if not (active.new_tokens or _meet(replace(active, embeddings=False), learning, mixtures)):
            raise UserError(f"{where}.groups.{number}: {tied}, or leave the group out")


def token_tables(graph: Model) -> list[Tensor]:
    """Return the matrices with a row for each token: the embedding, and an output matrix that is not tied to it."""
    return [tensor for tensor in graph.tensors().values() if tensor.axes[0].ports == {"vocab"} and len(tensor.axes) > 1]


def groups_of_parameters(graph: Model, groups: Sequence[ParameterGroup]) -> dict[str, tuple[ParameterGroup, ...]]:
    """Return the group of each of the class's parameters, by its name; several where its rows are of different ones.

    Rows of new tokens come behind the group of the other rows, and experts in their order.
    """
    of_name, tables = {group.name: group for group in groups}, {tensor.name for tensor in token_tables(graph)}
    of_layer: dict[tuple[int, str | None], list[ParameterGroup]] = {}
    for group in groups:
        for layer in group.layers:
            of_layer.setdefault((layer, group.mixture), []).append(group)
    found: dict[str, tuple[ParameterGroup, ...]] = {}
    for name, (tensor, *_) in graph.held().items():
        if tensor.buffer:
            continue
        if tensor.layer is not None:
            found[name] = tuple(of_layer.get((tensor.layer, tensor.mixture)) or of_layer[tensor.layer, None])
            continue
        group = of_name[tensor.group]
        rows = group.new_tokens
        found[name] = (group, rows) if name in tables and rows in groups else (group,)
    return found


def setting_of(
    stage: TrainStage, key: str, group: ParameterGroup, layers: int, mixtures: Mixtures = NO_MIXTURES
) -> float | None:
    """Return a group's setting under a key in a stage; None where no group of the recipe's gives one.

    Settings that name new tokens come before those of the matrices that hold their rows.
    """
    found: list[tuple[bool, float]] = []
    for each in stage.groups:
        active, value = active_layers_of(each.parameters, layers, stage.name, mixtures), getattr(each, key)
        if value is not None and group.learns(active):
            found.append((active.new_tokens, value))
    return max(found, key=lambda each: each[0])[1] if found else None
