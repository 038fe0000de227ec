"""What attention figures are drawn from: maps of three models, what each head was made from, and how alike heads are."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from pipeline.growth.plan import GrowthPlan
from pipeline.operators import Origin, Units
from pipeline.report.attention.similarity import head_similarity

SOURCE, GROWN, TRAINED = "source", "right after growth", "after training"


HeadKind = Literal["own", "copy", "next", "mixed", "random"]
"""The source's own head; a copy of one; one that reads as a head of the source's next layer does; one whose queries are the
next layer's and whose keys, shared with other heads, are not, or one that is the average of several layers'; or one that starts
from random or small values."""


@dataclass(frozen=True, slots=True)
class HeadOrigin:
    """Where the queries and keys of a target head come from."""

    kind: HeadKind
    layer: int | None
    """The source layer and head whose map it should show; None where there is none."""
    head: int | None
    duplicate: int | None
    """For a new head: the target head of the same layer that is the source's own and was copied, or would have been."""


def head_origins(plan: GrowthPlan) -> list[list[HeadOrigin]]:
    """Return the origin of each head of each target layer."""
    return [[_origin(plan, origin, head) for head in range(plan.target.num_attention_heads)] for origin in plan.layers]


def _origin(plan: GrowthPlan, layer: Origin, head: int) -> HeadOrigin:
    heads, kv_heads = plan.maps["heads"], plan.maps["kv_heads"]
    if layer.source is None:
        return HeadOrigin("random", None, None, None)
    if layer.average:
        return HeadOrigin("mixed", None, None, None)
    copied = int(heads.indices[head])
    if not heads.grows or bool(heads.own[head]):
        return HeadOrigin("own", layer.source, copied, None)
    if plan.content.units not in (Units.COPY, Units.ZERO_OUTPUT_NEXT_LAYER):
        return HeadOrigin("random", None, None, None)
    duplicate = next(i for i in range(len(heads.indices)) if heads.own[i] and int(heads.indices[i]) == copied)
    following = plan.next_layer(layer.source)
    takes_next = plan.content.next_layer or plan.content.units is Units.ZERO_OUTPUT_NEXT_LAYER
    if not takes_next or following == layer.source:
        return HeadOrigin("copy", layer.source, copied, duplicate)
    group = head * plan.target.num_key_value_heads // plan.target.num_attention_heads
    if kv_heads.grows and not bool(kv_heads.own[group]):
        return HeadOrigin("next", following, copied, duplicate)
    return HeadOrigin("mixed", None, None, duplicate)


@dataclass(frozen=True)
class ComparedHeads:
    """What the figures are drawn from; attention probabilities on one sentence are [layers, heads, S, S]."""

    plan: GrowthPlan
    origins: list[list[HeadOrigin]]
    layers: list[int]
    heads: list[int]
    tokens: list[str]
    source: torch.Tensor
    targets: dict[str, torch.Tensor]
    """By when the target was looked at: `GROWN`, and `TRAINED` where the trained model is what the growth led to."""

    @property
    def causal(self) -> bool:
        """Whether a token sees those before it alone."""
        return self.plan.family.objective == "clm"

    @property
    def last(self) -> str:
        """When the target was looked at last."""
        return list(self.targets)[-1]

    def similarity(self, first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
        """Return how alike heads [a, S, S] and [b, S, S] are, [a, b]."""
        return head_similarity(first, second, causal=self.causal)

    def maps_of(self, layer: int, head: int) -> dict[str, torch.Tensor]:
        """Return a target head's map by when, and before it, under `SOURCE`, that of the head that it was made from."""
        origin = self.origins[layer][head]
        made_from = {} if origin.head is None else {SOURCE: self.source[origin.layer, origin.head]}
        return made_from | {when: maps[layer, head] for when, maps in self.targets.items()}

    @cached_property
    def within(self) -> dict[str, np.ndarray]:
        """How alike the heads of each target layer are, [layers, heads, heads], by when."""
        return {when: np.stack([self.similarity(layer, layer) for layer in maps]) for when, maps in self.targets.items()}

    def reproduced(self, kind: HeadKind, *, added: bool) -> list[float]:
        """How alike each target head of a kind, right after growth, and the source head that it was made from are."""
        return [
            self.similarity(self.targets[GROWN][layer, [head]], self.source[origin.layer, [origin.head]]).item()
            for layer, origins in enumerate(self.origins)
            for head, origin in enumerate(origins)
            if origin.kind == kind and origin.head is not None and self.plan.layers[layer].added == added
        ]

    @cached_property
    def duplicates(self) -> list[dict[str, Any]]:
        """Every new head that has a duplicate of the source's own in its layer, and how alike the two are by when."""
        grown, trained = self.within[GROWN], self.within.get(TRAINED)
        return [
            {
                "layer": layer,
                "head": head,
                "own_head": own,
                "kind": origin.kind,
                "right_after_growth": float(grown[layer, head, own]),
                "after_training": None if trained is None else float(trained[layer, head, own]),
            }
            for layer, origins in enumerate(self.origins)
            for head, origin in enumerate(origins)
            if (own := origin.duplicate) is not None
        ]

    @property
    def unrelated(self) -> float | None:
        """How alike heads of one layer are, right after growth, that are made from different source heads; None of none."""
        pairs = [
            self.within[GROWN][layer, one, other]
            for layer, origins in enumerate(self.origins)
            for one, first in enumerate(origins)
            for other, second in enumerate(origins[:one])
            if first.duplicate != other and (first.layer, first.head) != (second.layer, second.head)
        ]
        return float(np.mean(pairs)) if pairs else None

    @property
    def layer_numbers(self) -> list[str]:
        """The target's layers, with a + at added ones."""
        return [f"{layer}{'+' if origin.added else ''}" for layer, origin in enumerate(self.plan.layers)]

    def layer_name(self, layer: int) -> str:
        """A target layer and where it comes from, in words."""
        origin = self.plan.layers[layer]
        if origin.source is None:
            return f"layer {layer} (added, random)"
        if origin.added:
            zero = ", writes nothing at first" if origin.zero_output else ""
            return f"layer {layer} (added: source layer {origin.source} again{zero})"
        return f"layer {layer}" if origin.source == layer else f"layer {layer} (source layer {origin.source})"
