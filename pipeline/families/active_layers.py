"""What of a model runs in a step, and what of it learns."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mixtures:
    """A model's mixtures of experts, as far as some of them can be selected."""

    layers: frozenset[int]
    """Those that have one."""
    experts: int
    """In each."""
    shared: bool
    """Whether there is also an expert that every token goes through."""


NO_MIXTURES = Mixtures(frozenset(), 0, shared=False)
"""Those of a dense model."""


@dataclass(frozen=True, slots=True)
class ActiveLayers:
    """The bottom `depth` layers and the head run; of them `layers`, and by choice embeddings and head, learn.

    A tied embedding belongs to the head: where the embeddings are frozen it learns from the head's side only. Routers and
    experts of mixtures may learn in layers that do not learn as a whole.
    """

    depth: int
    layers: frozenset[int]
    embeddings: bool
    head: bool
    new_tokens: bool = False
    """Whether the rows of tokens that growth added learn, in the embedding and the output matrix, where those are frozen."""
    routers: bool = False
    """Whether the routers of all layers learn, with the gates of shared experts."""
    experts: frozenset[int] = frozenset()
    """The experts that learn in all layers, by number."""
    shared_experts: bool = False
    """Whether the shared experts of all layers learn."""
    mixtures: frozenset[int] = frozenset()
    """The layers with mixtures of experts, where one of the three above is chosen."""

    @classmethod
    def whole(cls, depth: int) -> "ActiveLayers":
        """A model of `depth` layers, all of it learning."""
        return cls(depth, frozenset(range(depth)), embeddings=True, head=True)

    @classmethod
    def top(cls, depth: int, trained: int) -> "ActiveLayers":
        """A sub-model of `depth` layers whose top `trained` ones learn, with the head (bert2BERT algorithm 2)."""
        return cls(depth, frozenset(range(depth - trained, depth)), embeddings=False, head=True)

    @property
    def lowest(self) -> int | None:
        """The first layer that gradients go through: None where they reach the embeddings, `depth` where the head alone."""
        if self.embeddings or self.new_tokens:
            return None
        return min(self.layers | self.mixtures, default=self.depth)

    def mixture_learns(self, mixture: str | None, experts: Collection[int] | None = None) -> bool:
        """Whether a kind of a mixture's tensors learns in layers that do not learn as a whole.

        Of experts: all of these, or any at all where none are named.
        """
        chosen = bool(self.experts) if experts is None else self.experts.issuperset(experts)
        return {"router": self.routers, "expert": chosen, "shared_expert": self.shared_experts}.get(mixture or "", False)
