"""What attention figures are drawn from: maps of three models, and how alike their heads are."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from pipeline.growth.plan import GrowthPlan
from pipeline.report.attention.origins import HeadKind, HeadOrigin
from pipeline.report.attention.similarity import head_similarity

SOURCE, GROWN, TRAINED = "source", "right after growth", "after training"


@dataclass(frozen=True, slots=True)
class Maps:
    """Attention probabilities of three models on one sentence, each [layers, heads, S, S]."""

    source: torch.Tensor
    grown: torch.Tensor
    trained: torch.Tensor | None
    """None where the trained model is not what the growth led to."""

    @property
    def targets(self) -> dict[str, torch.Tensor]:
        """The target by when it was looked at."""
        return {GROWN: self.grown} | ({} if self.trained is None else {TRAINED: self.trained})


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A new head beside the source's own head of its layer, and how alike the two are."""

    layer: int
    head: int
    duplicate: int
    grown: float
    trained: float | None

    @property
    def last(self) -> float:
        """How alike they are after training, or right after growth where nothing else is known."""
        return self.grown if self.trained is None else self.trained


@dataclass(frozen=True)
class ComparedHeads:
    """What the figures are drawn from."""

    plan: GrowthPlan
    origins: list[list[HeadOrigin]]
    layers: list[int]
    heads: list[int]
    tokens: list[str]
    maps: Maps

    @property
    def causal(self) -> bool:
        """Whether a token sees those before it alone."""
        return self.plan.family.objective == "clm"

    @property
    def hidden(self) -> np.ndarray | None:
        """What no query sees, [S, S]: the keys behind it, under a causal mask."""
        return np.triu(np.ones((len(self.tokens),) * 2, dtype=bool), 1) if self.causal else None

    @cached_property
    def within(self) -> dict[str, np.ndarray]:
        """How alike the heads of each target layer are, [layers, heads, heads], by when."""
        return {
            when: np.stack([head_similarity(layer, layer, causal=self.causal) for layer in maps])
            for when, maps in self.maps.targets.items()
        }

    def reproduced(self, kind: HeadKind, *, added: bool) -> list[float]:
        """How alike each target head of a kind, right after growth, and the source head that it was made from are."""
        return [
            float(self._alike(layer, head, origin))
            for layer, origins in enumerate(self.origins)
            for head, origin in enumerate(origins)
            if origin.kind == kind and origin.head is not None and self.plan.layers[layer].added == added
        ]

    def _alike(self, layer: int, head: int, origin: HeadOrigin) -> float:
        made_from = self.maps.source[origin.layer, origin.head]
        return head_similarity(self.maps.grown[layer, head][None], made_from[None], causal=self.causal).item()

    def duplicates(self) -> list[Duplicate]:
        """Every new head that has a duplicate of the source's own in its layer."""
        return [
            Duplicate(layer, head, origin.duplicate, *self._pair(layer, head, origin.duplicate))
            for layer, origins in enumerate(self.origins)
            for head, origin in enumerate(origins)
            if origin.duplicate is not None
        ]

    def _pair(self, layer: int, head: int, other: int) -> tuple[float, float | None]:
        trained = self.within.get(TRAINED)
        return float(self.within[GROWN][layer, head, other]), None if trained is None else float(trained[layer, head, other])

    def unrelated(self) -> float:
        """How alike heads of one layer are, right after growth, that are made from different source heads; NaN for none."""
        pairs = [
            self.within[GROWN][layer, one, other]
            for layer, origins in enumerate(self.origins)
            for one, first in enumerate(origins)
            for other, second in enumerate(origins[:one])
            if first.duplicate != other and (first.layer, first.head) != (second.layer, second.head)
        ]
        return float(np.mean(pairs)) if pairs else float("nan")

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
