"""How one model grows into another: the plan, and what is refused because it could not keep or learn anything."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families import Family, carry_layer_lists, context_changes, drop_intervals, family_of, sizes_of
from pipeline.families.graph import Model
from pipeline.growth.auto_operators import resolve_auto
from pipeline.growth.axis_rules import AxisRules
from pipeline.growth.deadlock import Deadlock
from pipeline.growth.derivation import Derivation
from pipeline.growth.growth_plan import GrowthPlan, branch_writers
from pipeline.growth.index_map import SMALL, AxisIndexMap
from pipeline.growth.initialization import drawing
from pipeline.growth.new_tokenizer import NewTokenizer
from pipeline.growth.port_maps import build_maps
from pipeline.growth.token_rows import TokenRows, describe_tokens
from pipeline.growth.upcycling import DenseUpcycling, plan_upcycling
from pipeline.operators import DEPTH, WIDTH, Origin, Stream, Units
from pipeline.operators.base import StreamNorms
from pipeline.recipe import GrowthConfig
from pipeline.recipe.growth import AUTO


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
    form = plan_upcycling(source, target, growth, seed, where)
    source = form.read_config
    family = family_of(source, "source")
    old = family.graph(source)
    growth = _with_vocabulary(growth, tokenizer)
    growth, choices = resolve_auto(growth, old, sizes_of(source), sizes_of(target), stock=stock)
    layers = _layer_origins(growth, old, sizes_of(target).depths)
    _refuse_unlike_averages(old, layers)
    changed = [] if tokenizer is None else tokenizer.set_token_ids(source, target)
    carry_layer_lists(source, target, [origin.source for origin in layers])
    drop_intervals(target)
    new = family.graph(target)
    maps = build_maps(old.sizes, new.sizes, WIDTH[growth.width], growth, seed)
    content = WIDTH[growth.width].content(growth.model_dump(), StreamNorms(old.stream_norm, write=not old.holds_means))
    heads = new.norms_all_heads and not content.fills and maps["heads"].grows
    experts = isinstance(form, DenseUpcycling) or 0 < old.sizes.get("experts", 0) < new.sizes.get("experts", 0)
    copies = content.units is Units.COPY or content.stream is Stream.COPY or heads or experts
    _refuse_idle_options(growth, family, old, copies=copies)
    tokens, described = _tokens(growth, tokenizer, old.sizes["vocab"], new.sizes["vocab"])
    rules = AxisRules(old, new, growth, content, maps, family.position_offset, tokens, copies_experts=experts)
    derivation = Derivation(rules, layers)
    plan = GrowthPlan(
        family=family,
        source=sizes_of(source),
        target=sizes_of(target),
        config=target,
        source_graph=old,
        graph=new,
        growth=growth,
        choices=[*derived, *choices, *changed, *described, *_drawn_experts(rules)],
        seed=seed,
        content=content,
        maps=maps,
        layers=layers,
        index_maps=_scaled_layers(derivation.maps, new, layers),
        departures=[*form.departures, *derivation.departures],
        context=tuple(context_changes(family, source, target)),
        tokens=tokens,
        form=form,
        tokenizer=tokenizer,
        optimizer=optimizer,
    )
    _refuse_deadlock(plan)
    return plan


def _tokens(growth: GrowthConfig, tokenizer: NewTokenizer | None, old: int, new: int) -> tuple[AxisIndexMap, list[str]]:
    """Return what the rows of a vocabulary of `new` tokens are made of, and what there is to say of it."""
    if tokenizer is None:
        return TokenRows(torch.arange(min(old, new)), {}).index_map(new, growth.vocabulary), []
    tokens = tokenizer.rows.index_map(new, growth.vocabulary)
    return tokens, describe_tokens(tokens, old, growth.vocabulary)


def _drawn_experts(rules: AxisRules) -> list[str]:
    """Return what there is to say where copies of experts get new units of their own."""
    port = rules.target.expert_port
    if not rules.copies_experts or not rules.operator.zero_output_units or port is None or not rules.maps[port].grows:
        return []
    return ["new units of experts are drawn, others in each, and write nothing at first: copies learn different things"]


def _layer_origins(growth: GrowthConfig, source: Model, depths: Sequence[int]) -> list[Origin]:
    """Return the origins of the target's layers, `depths` of them in each stack, numbered over all stacks.

    Raises UserError where a list does not fit, or takes a layer of another stack.
    """
    operator, options = DEPTH[growth.depth], growth.model_dump()
    if not operator.all_stacks:
        return [
            origin if origin.source is None else replace(origin, source=numbers.start + origin.source)
            for numbers, depth in zip(source.ranges, depths, strict=True)
            for origin in operator.origins(len(numbers), depth, options)
        ]
    origins, layer = operator.origins(len(source.layers), sum(depths), options), 0
    for numbers, depth in zip(source.ranges, depths, strict=True):
        own = origins[layer : layer + depth]
        named = [one.source for one in own] + [number for one in own for number, _ in one.average]
        others = [number for number in named if number not in numbers]
        if others:
            raise UserError(
                f"growth.layers: target layers {layer} to {layer + depth - 1} are of one stack, and the source's layer "
                f"{others[0]} is of another; name {numbers.start} to {numbers.stop - 1} there (the encoder's layers come first)"
            )
        layer += depth
    return origins


def _scaled_layers(
    maps: Mapping[str, tuple[AxisIndexMap, ...]], model: Model, origins: Sequence[Origin]
) -> Mapping[str, tuple[AxisIndexMap, ...]]:
    """Return the maps with what a layer adds multiplied by its scale."""
    scaled, made = dict(maps), dict[tuple[int, float], tuple[AxisIndexMap, ...]]()
    for origin, layer in zip(origins, model.layers, strict=True):
        for name in [name for branch in layer.branches if origin.scale != 1.0 for name in branch_writers(branch)]:
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


def _with_vocabulary(growth: GrowthConfig, tokenizer: NewTokenizer | None) -> GrowthConfig:
    """Return the growth with the rows of new tokens settled; raises UserError for pieces of tokens that are not known."""
    if growth.vocabulary == "pieces" and tokenizer is None:
        raise UserError(
            "growth.vocabulary: pieces are those that the source's tokenizer makes of another's tokens; name target.tokenizer "
            "(launch/grow.py: --tokenizer), or choose mean"
        )
    if growth.vocabulary != AUTO:
        return growth
    return growth.model_copy(update={"vocabulary": "mean" if tokenizer is None else "pieces"})


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
    dead = Deadlock(plan).dead()
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
