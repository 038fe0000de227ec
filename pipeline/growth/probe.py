"""By how much a growth moves logits, which are computed from states that are read a few rows at a time.

Made to tell whether a growth is exact: in float64, where exact growth moves a logit by 1e-12 and any
departure by far more. No tensor is ever whole in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional
from transformers import PretrainedConfig
from transformers.modeling_outputs import ModelOutput

from pipeline.common import keyed
from pipeline.common.progress import Meter
from pipeline.families import Family, of_layers, sizes_of
from pipeline.families.graph import Model
from pipeline.families.tensors import RESIDUAL
from pipeline.growth.growth_plan import GrowthPlan
from pipeline.growth.state import Rows, Source, State
from pipeline.growth.streamed_model import streamed_model
from pipeline.growth.token_rows import of_tokens
from pipeline.growth.weighted_norms import WeightedNorms

SEQUENCES, POSITIONS = 2, 32
"""The window of random tokens that models are compared on."""

WHOLE_PARAMETERS = 2_000_000_000
"""Parameters of source and target together, above which layers are sampled."""

_ROUNDED = 1e-12
"""A logit that moves by less was rounded; where it moves by more the source is asked how sensitive it is."""

_SHAKEN = 1e-12
"""The share by which values are moved to see by how much logits are."""

_LONGEST = 512
"""Tokens of a text that shows a window."""

_COPIES = 2
"""Target layers of one origin that a sample keeps."""


def compare(source: Source, plan: GrowthPlan, target: PretrainedConfig) -> dict[str, Any]:
    """Return by how much growth moves a logit, over the tokens that both models have, and the losses before and after.

    The logits of sentence pairs, where the model has any, are compared too. The losses are those of tokens alone.
    Growth and models are in float64 throughout: this is about the plan, not about what rounding the
    weights to a narrower dtype adds. On a fixed window of random tokens, all scored: the next token, or
    under masked language modelling the token itself. Above WHOLE_PARAMETERS both models are cut to a few
    layers (`source_layers`, `target_layers` say which): the source's first, middle and last, and target
    layers made of them. `by_position` is by how much logits move at more distant positions, where a target attends otherwise on
    purpose. `sensitivity`, where logits move at all, is by how much more a logit of the source moves than its embedding.
    """
    family = source.family
    small, large = _models(source, plan, target)
    drawn = _window(family, source.config, len(plan.carried.source))
    places = list(_changed_places(plan))
    read = elements(small.state) + elements(large.state)
    with Meter("comparing the logits before and after", read * (1 + len(places)), "values") as meter:
        before, after = (model.outputs(drawn, meter=meter) for model in (small, large))
        # Windows that are too long to compute are listed without a number.
        by_position: list[dict[str, int | float | None]] = [
            {"positions": change.length + POSITIONS, "max_logit_difference": None}
            for change in plan.context
            if not change.positions and change.length + POSITIONS > _LONGEST
        ]
        for positions in places:
            tokens = _tokens(len(plan.carried.source), len(positions))
            one, other = (model.outputs(tokens, positions, meter)[family.logits] for model in (small, large))
            moved = (one - other).abs().max().item()
            by_position.append({"positions": int(positions[-1]) + 1, "max_logit_difference": moved})
    compared = [family.logits] if family.pair_logits is None else [family.logits, family.pair_logits]
    losses = [_loss(family, outputs[family.logits], drawn) for outputs in (before, after)]
    moved = max((before[field] - after[field]).abs().max().item() for field in compared)
    sensitive = {}
    if moved > _ROUNDED:
        # Some models make more of rounding than others.
        words = family.graph(small.config).stack.embeddings[0].weight
        shaken = replace(small, state={**small.state, words: _ShakenRows(small.state[words])}).outputs(drawn)
        sensitive["sensitivity"] = max((before[field] - shaken[field]).abs().max().item() for field in compared) / _SHAKEN
    return {
        "source_loss": losses[0],
        "grown_loss": losses[1],
        "loss_gap": losses[1] - losses[0],
        "max_logit_difference": moved,
        **sensitive,
        "by_position": by_position,
        "scored_tokens": _scored(family, drawn).numel(),
        "dtype": "float64",
        "tokens": "random",
        "source_layers": small.layers,
        "target_layers": large.layers,
    }


@dataclass(frozen=True)
class _Model:
    """The source or the target of a plan, or a few layers of it."""

    plan: GrowthPlan
    family: Family
    config: PretrainedConfig
    state: State
    layers: list[int]
    ids: torch.Tensor
    """Its ids of the tokens that both models have."""
    grown: bool

    @torch.no_grad()
    def outputs(self, tokens: torch.Tensor, positions: torch.Tensor | None = None, meter: Meter | None = None) -> ModelOutput:
        """Return what it gives of these tokens in float64; a grown one as its training begins, weighted norms included."""
        input_ids, state = self.ids[tokens], self.state
        if meter is not None:
            state = {name: _WatchedRows(tensor, meter) for name, tensor in state.items()}
        model = streamed_model(self.family, self.config, state, torch.float64)
        if self.grown and self.plan.growth.norm_statistics == "weighted":
            residual, steps = self.plan.maps[RESIDUAL], self.plan.growth.norm_anneal_steps
            WeightedNorms(model, self.family.graph(self.config), residual, steps)
        if positions is None:
            found = model(**self.plan.family.inputs(input_ids))
        else:
            # Without a mask transformers takes a gap between positions for the beginning of another text.
            found = model(input_ids=input_ids, position_ids=positions[None], attention_mask=torch.ones_like(input_ids))
        found[self.family.logits] = of_tokens(found[self.family.logits], self.ids)
        return found


def _models(source: Source, plan: GrowthPlan, target: PretrainedConfig) -> tuple[_Model, _Model]:
    """Return the source and the target, cut to a few layers where they are large."""
    grown, carried = plan.grow(source.state, torch.float64), plan.carried
    layers = list(range(len(plan.source_graph.layers))), list(range(len(plan.graph.layers)))
    small = _Model(plan, source.family, source.config, source.state, layers[0], carried.source, grown=False)
    large = _Model(plan, plan.family, target, grown, layers[1], carried.target, grown=True)
    if elements(source.state) + elements(grown) <= WHOLE_PARAMETERS:
        return small, large
    sampled = _sampled(plan.source_graph)
    made_of = _made_of([origin.source for origin in plan.layers], sampled)
    return _cut(small, sampled), _cut(large, made_of)


class _ShakenRows:
    """A tensor each of whose values is larger or smaller by a little."""

    def __init__(self, tensor: Rows) -> None:
        self.shape, self._tensor = tensor.shape, tensor

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        drawn = torch.from_numpy(keyed.normal_block(("shaken",), (start, stop), (0, self.shape[1]), self.shape[1]))
        return self._tensor.rows(start, stop).double() * (1.0 + _SHAKEN * torch.where(drawn > 0, 1.0, -1.0).double())


class _WatchedRows:
    """A tensor that tells how many of its values are read."""

    def __init__(self, tensor: Rows, meter: Meter) -> None:
        self.shape = tensor.shape
        self._tensor, self._meter = tensor, meter

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        rows = self._tensor.rows(start, stop)
        self._meter.advance(rows.numel())
        return rows


def elements(state: State) -> int:
    """Return how many numbers a state holds."""
    return sum(torch.Size(tensor.shape).numel() for tensor in state.values())


def _window(family: Family, config: PretrainedConfig, vocabulary: int) -> torch.Tensor:
    return _tokens(vocabulary, min(POSITIONS, family.usable_positions(sizes_of(config)) or POSITIONS))


def _tokens(vocabulary: int, length: int) -> torch.Tensor:
    """Return random tokens of so many, [SEQUENCES, length]."""
    tokens = keyed.below(("probe",), 0, SEQUENCES * length, vocabulary)
    return torch.from_numpy(tokens).reshape(SEQUENCES, length)


def _changed_places(plan: GrowthPlan) -> Iterator[torch.Tensor]:
    """Yield positions of tokens that show a change of how tokens attend, where there is one.

    Of rotary positions: spread over as many as the source has, and as the target has; the tokens between are left out. Of a
    window: all of a text that is longer than it, where it is short enough to compute.
    """
    known = [sizes.max_position_embeddings for sizes in (plan.source, plan.target)]
    source, target = (size or 0 for size in known)
    lengths = [change.length for change in plan.context if change.positions]
    if lengths:
        # Some types change only sequences that are longer than the source's.
        for size in sorted({source, target, *(2 * length for length in lengths if length >= source)}):
            yield torch.linspace(0, size - 1, min(POSITIONS, size), dtype=torch.float64).long()
    lengths = [change.length + POSITIONS for change in plan.context if not change.positions]
    yield from (torch.arange(length) for length in lengths if length <= _LONGEST)


def _scored(family: Family, input_ids: torch.Tensor) -> torch.Tensor:
    read = list(family.inputs(input_ids).values())[-1]
    return read if family.objective == "mlm" else read[:, 1:]


def _loss(family: Family, logits: torch.Tensor, input_ids: torch.Tensor) -> float:
    scored = logits if family.objective == "mlm" else logits[:, :-1]
    return functional.cross_entropy(scored.flatten(0, 1), _scored(family, input_ids).flatten()).item()


def _sampled(graph: Model) -> list[int]:
    """The first, the middle and the last layer of each stack."""
    ends = [(numbers[0], numbers[-1]) for numbers in graph.ranges]
    return [layer for first, last in ends for layer in sorted({first, (first + last) // 2, last})]


def _made_of(origins: list[int | None], source_layers: list[int]) -> list[int]:
    """The target layers made of these source layers, or of none, a few of each."""
    kept: list[int] = []
    for layer, origin in enumerate(origins):
        if (origin is None or origin in source_layers) and [origins[k] for k in kept].count(origin) < _COPIES:
            kept.append(layer)
    return kept


def _cut(model: _Model, layers: list[int]) -> _Model:
    """The model of these layers alone: its configuration, and its tensors under their new names."""
    graph = model.family.graph(model.config)
    config = of_layers(model.family, model.config, layers)
    state = {
        name: model.state[name if tensor.layer is None else graph.at_layer(name, layers[tensor.layer])]
        for name, tensor in model.family.graph(config).tensors().items()
    }
    return replace(model, config=config, state=state, layers=layers)
