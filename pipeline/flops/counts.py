"""FLOPs of one step from a model's sizes: matrix products alone, which is what FlopCounterMode counts.

Attention scores are counted whole, as eager attention computes them, for causal models too.
"""

from dataclasses import dataclass

from pipeline.families import Family, Sizes


@dataclass(frozen=True, slots=True)
class StepFlops:
    """FLOPs of one step. `model` is what the mathematics asks for, `executed` what was run."""

    model: int
    executed: int


def layer_forward(sizes: Sizes, sequence_length: int) -> int:
    """Forward FLOPs of one layer for one token."""
    hidden = sizes.hidden_size
    width = sizes.num_attention_heads * sizes.head_dim
    projections = 2 * hidden * width + 4 * hidden * width + 2 * width * hidden  # q; k and v; output
    attention = 4 * sequence_length * width  # scores and mix
    return projections + attention + 2 * 2 * hidden * sizes.intermediate_size


def head_forward(family: Family, sizes: Sizes) -> int:
    """Forward FLOPs of the output head for one token, every position scored."""
    transform = 2 * sizes.hidden_size**2 if family.objective == "mlm" else 0
    return transform + 2 * sizes.hidden_size * sizes.vocab_size


def training_step(
    family: Family, sizes: Sizes, sequence_length: int, tokens: int, depth: int | None = None, trained: int | None = None
) -> StepFlops:
    """FLOPs of forward and backward over `tokens` tokens.

    `depth` bottom layers run and the top `trained` of them learn, with the head; the whole model
    where not given. Backward through what learns costs twice its forward (data and weight gradients).
    """
    depth = sizes.num_hidden_layers if depth is None else depth
    layer, head = layer_forward(sizes, sequence_length), head_forward(family, sizes)
    forward = depth * layer + head
    backward = 2 * ((depth if trained is None else trained) * layer + head)
    if trained is not None and not family.pre_norm:
        # The graph is cut below the lowest trained layer; in a post-LN layer q, k and v read the cut
        # input itself and owe it no gradient. In a pre-LN layer a trained norm stands between.
        backward -= 6 * sizes.hidden_size * sizes.num_attention_heads * sizes.head_dim
    total = tokens * (forward + backward)
    return StepFlops(model=total, executed=total)
