"""What attention figures are drawn from: maps of three models, and how alike their heads are."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pipeline.growth.plan import GrowthPlan
from pipeline.report.attention.origins import HeadKind, HeadOrigin
from pipeline.report.attention.similarity import head_similarity

SOURCE, GROWN, TRAINED = "source", "right after growth", "after training"


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
