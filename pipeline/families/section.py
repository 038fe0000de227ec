"""What of a model runs in a step, and what of it learns."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """The bottom `depth` layers and the head run; of them `layers`, and by choice embeddings and head, learn.

    A tied embedding belongs to the head: where the embeddings stand still it learns from the head's side only.
    """

    depth: int
    layers: frozenset[int]
    embeddings: bool
    head: bool
    new_tokens: bool = False
    """Whether the rows of tokens that growth added learn, in the embedding and the output matrix, where those stand still."""

    @classmethod
    def whole(cls, depth: int) -> "Section":
        """A model of `depth` layers, all of it learning."""
        return cls(depth, frozenset(range(depth)), embeddings=True, head=True)

    @classmethod
    def top(cls, depth: int, trained: int) -> "Section":
        """A sub-model of `depth` layers whose top `trained` ones learn, with the head (bert2BERT algorithm 2)."""
        return cls(depth, frozenset(range(depth - trained, depth)), embeddings=False, head=True)

    @property
    def lowest(self) -> int | None:
        """The first layer that gradients go through: None where they reach the embeddings, `depth` where the head alone."""
        if self.embeddings or self.new_tokens:
            return None
        return min(self.layers, default=self.depth)
