"""FLOPs of one step from a model's sizes: matrix products alone, which is what FlopCounterMode counts.

Attention scores are counted whole, as eager attention computes them, for causal models and sliding windows too; the half
that causal kernels leave out is left out by choice. Looking up embeddings is no product, and counts nothing.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from pipeline.families import FAMILIES, Family, Section, Sizes
from pipeline.families.graph import Attention, Linear, Mlp, Model

PARTS = ("embedding", "attention_projections", "attention_scores", "ffn", "head")


def _nothing() -> dict[str, int]:
    return dict.fromkeys(PARTS, 0)


@dataclass(frozen=True, slots=True)
class StepFlops:
    """FLOPs by part (`PARTS`): `model` is what the mathematics asks for, `executed` what was run."""

    model: dict[str, int] = field(default_factory=_nothing)
    executed: dict[str, int] = field(default_factory=_nothing)

    @property
    def model_total(self) -> int:
        """Model FLOPs of all parts."""
        return sum(self.model.values())

    @property
    def executed_total(self) -> int:
        """Executed FLOPs of all parts."""
        return sum(self.executed.values())

    def __add__(self, other: "StepFlops") -> "StepFlops":
        return StepFlops(
            {part: self.model[part] + other.model[part] for part in PARTS},
            {part: self.executed[part] + other.executed[part] for part in PARTS},
        )

    def __mul__(self, steps: int) -> "StepFlops":
        return StepFlops(
            {part: steps * self.model[part] for part in PARTS}, {part: steps * self.executed[part] for part in PARTS}
        )


@dataclass(frozen=True, slots=True)
class _Token:
    """Forward FLOPs of one token."""

    inputs: int
    """One layer's query, key and value projections."""
    mixed: int
    """One layer's output projection of attention."""
    ffn: int
    """One layer's FFN."""
    down: int
    """The last product of the FFN."""
    down_is_linear: bool
    """Whether that is torch's linear, and not GPT-2's Conv1D, which holds its matrix the other way round."""
    transform: int
    """The dense layer that stands before the output matrix of an encoder's head."""
    output: int
    """The output matrix."""
    reads_stream: frozenset[int]
    """Layers whose query, key and value read the stream without a norm."""
    normed: bool
    """Whether a norm that learns with the head stands before its first product."""
    ends_in_norm: bool
    """Whether a norm reads what the FFN gives, or the stream behind it."""
    embeds: bool
    """Whether an embedding learns apart from the head."""


@lru_cache(maxsize=64)
def _graph(family_name: str, sizes: Sizes) -> Model:
    # By name, since a family itself cannot be hashed.
    return FAMILIES[family_name].graph_at(sizes)


@lru_cache(maxsize=64)
def _token(family_name: str, sizes: Sizes) -> _Token:
    graph = _graph(family_name, sizes)
    # Of a model with an encoder besides this would be a part.
    (stack,) = graph.stacks
    branches = stack.layers[0].branches
    bodies = [branch.body for branch in branches]
    (attention,) = [body for body in bodies if isinstance(body, Attention)]
    (mlp,) = [body for body in bodies if isinstance(body, Mlp)]

    def product(*linears: Linear) -> int:
        """FLOPs of one vector times each of the matrices."""
        return sum(2 * linear.out.size(graph.sizes) * linear.into.size(graph.sizes) for linear in linears)

    transform = graph.head.transform
    return _Token(
        inputs=product(*attention.inputs),
        mixed=product(attention.last),
        ffn=product(*mlp.inputs, mlp.last),
        down=product(mlp.last),
        down_is_linear=not mlp.last.transposed,
        transform=0 if transform is None else product(transform),
        # Tied or not, the matrix is there once.
        output=2 * sizes.hidden_size * sizes.vocab_size,
        reads_stream=frozenset(i for i, layer in enumerate(stack.layers) if layer.branches[0].pre is None),
        normed=stack.final is not None,
        ends_in_norm=branches[-1].post is not None or branches[-1].ends is not None,
        # A tied embedding stands still with the head.
        embeds=any(tensor.block == "embeddings" for tensor in graph.tensors().values()),
    )


def training_step(
    family: Family,
    sizes: Sizes,
    sequence_length: int,
    tokens: int,
    *,
    scored: int,
    section: Section | None = None,
    recomputed: bool = False,
    zero_linear: bool = False,
    causal_scores: Literal["full", "half"] = "full",
    pairs: bool = False,
) -> StepFlops:
    """FLOPs of forward and backward over `tokens` tokens, in sequences of `sequence_length`, all ranks together.

    `scored` is the number of positions that the head scores. `section` says what runs and what of it learns; None is the
    whole model. `recomputed`: activations are checkpointed by layer; `zero_linear`: by DeepSpeed's linear in the place of
    torch's. `causal_scores` halves the scores and the mix of causal models. `pairs`: BERT's pooler and its two classes, on
    one position of each sequence.

    Backward, a matrix product costs its forward once for the gradient of its input, where anything below learns, and once
    for that of its weight, where it learns itself; scores and mix cost theirs twice wherever gradients pass.
    """
    per = _token(family.name, sizes)
    section = section or Section.whole(sizes.num_hidden_layers)
    learning, depth = len(section.layers), section.depth
    reaches = section.new_tokens or (section.embeddings and (section.head or per.embeds))
    # Layers that gradients go through.
    passed = depth if reaches else depth - min(section.layers, default=depth)

    scores = 4 * sequence_length * sizes.num_attention_heads * sizes.head_dim
    if causal_scores == "half" and family.objective == "clm":
        scores //= 2
    projections = (per.inputs + per.mixed) * (depth + passed + learning)
    if learning and not reaches and min(section.layers) in per.reads_stream:
        # Nothing below the lowest layer learns. Where q, k and v read its input they owe it no gradient; in a pre-norm
        # layer a norm that learns stands between.
        projections -= per.inputs
    model = {
        "embedding": 0,
        "attention_projections": tokens * projections,
        "attention_scores": tokens * scores * (depth + 2 * passed),
        "ffn": tokens * per.ffn * (depth + passed + learning),
        "head": scored * _head(per.transform, per.output, learns=section.head, passes=passed > 0, normed=per.normed)
        # The gradient of an output matrix is computed whole, whichever of its rows learn.
        + scored * (per.output if section.new_tokens and not section.head else 0),
    }
    if pairs:
        products = 2 * sizes.hidden_size**2, 2 * sizes.hidden_size * 2
        model["head"] += tokens // sequence_length * _head(*products, learns=section.head, passes=passed > 0, normed=False)
    executed = dict(model)
    if recomputed:
        again = tokens * passed
        executed["attention_projections"] += again * (per.inputs + per.mixed)
        executed["attention_scores"] += again * scores
        # torch's checkpoints stop where the last tensor that backward needs is there again. That is before the last product,
        # where its result is but added; a norm behind it needs it. DeepSpeed's linear names what it needs after its product,
        # torch's before.
        stops = not per.ends_in_norm and not (zero_linear and per.down_is_linear)
        executed["ffn"] += again * (per.ffn - per.down if stops else per.ffn)
    return StepFlops(model, executed)


def _head(first: int, last: int, *, learns: bool, passes: bool, normed: bool) -> int:
    """Forward and backward of a head of two products; `passes`: whether gradients go on into the layers.

    Between the two products, and before the last where there is no first, stands a norm or a bias that learns with them;
    `normed`: before the first too.
    """
    forward = first + last
    if not learns:
        return 2 * forward if passes else forward
    return 3 * forward - (0 if passes or normed else first)
