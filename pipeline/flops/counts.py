"""FLOPs of one step from a model's sizes: matrix products alone, which is what FlopCounterMode counts.

Attention scores are counted whole, as eager attention computes them, for causal models too.
"""

import math
from dataclasses import dataclass

from pipeline.families import Family, Sizes


@dataclass(frozen=True, slots=True)
class StepFlops:
    """FLOPs of one step. `model` is what the mathematics asks for, `executed` what was run."""

    model: int
    executed: int


def layer_forward(family: Family, sizes: Sizes, sequence_length: int) -> int:
    """Forward FLOPs of one layer for one token."""
    width = sizes.num_attention_heads * sizes.head_dim
    return _products(family, sizes, "layer") + 4 * sequence_length * width  # scores and mix


def head_forward(family: Family, sizes: Sizes) -> int:
    """Forward FLOPs of the output head for one token, every position scored."""
    return _products(family, sizes, "head") + 2 * sizes.hidden_size * sizes.vocab_size


def _products(family: Family, sizes: Sizes, block: str) -> int:
    """FLOPs of one vector times each matrix of a block, or of one layer, but for the output matrix."""
    return sum(2 * math.prod(sizes.shape(spec)) for spec in family.tensors if spec.block == block and len(spec.axes) > 1)


def training_step(
    family: Family, sizes: Sizes, sequence_length: int, tokens: int, depth: int | None = None, trained: int | None = None
) -> StepFlops:
    """FLOPs of forward and backward over `tokens` tokens.

    `depth` bottom layers run and the top `trained` of them learn, with the head; the whole model
    where not given. Backward through what learns costs twice its forward (data and weight gradients).
    """
    depth = sizes.num_hidden_layers if depth is None else depth
    layer, head = layer_forward(family, sizes, sequence_length), head_forward(family, sizes)
    forward = depth * layer + head
    backward = 2 * ((depth if trained is None else trained) * layer + head)
    if trained is not None and not family.pre_norm:
        # The graph is cut below the lowest trained layer; in a post-LN layer q, k and v read the cut
        # input itself and owe it no gradient. In a pre-LN layer a trained norm stands between.
        backward -= 2 * sizes.hidden_size * (sizes.num_attention_heads + 2 * sizes.num_key_value_heads) * sizes.head_dim
    total = tokens * (forward + backward)
    return StepFlops(model=total, executed=total)
