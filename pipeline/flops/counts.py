"""FLOPs of one step from a model's sizes: matrix products alone, which is what FlopCounterMode counts.

Attention scores are counted whole, as eager attention computes them, for causal models and sliding windows too; the half
that causal kernels leave out is left out by choice. Looking up embeddings is no product, and counts nothing.
"""

from dataclasses import dataclass, field
from typing import Literal

from transformers import PretrainedConfig

from pipeline.families import ActiveLayers, Family, family_of
from pipeline.families.graph import Attention, Experts, Layer, Mlp, Model
from pipeline.families.primitives import Linear
from pipeline.families.tensors import RESIDUAL

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
class _Network:
    """Forward FLOPs of one token in networks of a layer that learn together."""

    mixture: str | None
    """What part of a mixture they are, in a tensor's words."""
    all: int
    last: int
    """The last products, which alone owe their input a gradient where nothing below the first ones learns."""

    def learns(self, active: ActiveLayers, layer: int) -> bool:
        """Whether any of their matrices learn; the gradient of one that joins experts is computed whole, whichever learn."""
        return layer in active.layers or (layer in active.mixtures and active.mixture_learns(self.mixture))


@dataclass(frozen=True, slots=True)
class _Layer:
    """Forward FLOPs of one token in one layer."""

    inputs: int
    """Query, key and value projections, those of latents among them."""
    mixed: int
    """The output projection of attention."""
    score: int
    """One query with one key: their score, and the share of the mix."""
    networks: tuple[_Network, ...]
    """What makes up the FFN: a network; of a mixture the router, the experts chosen for a token, and what is shared."""
    added: int
    """The last product of the FFN where its result is added as it is, and no gate multiplies it."""
    added_by_linear: bool
    """Whether that is torch's linear, and not GPT-2's Conv1D, which holds its matrix the other way round."""
    reads_stream: bool
    """Whether query, key and value read the stream without a norm."""

    @property
    def ffn(self) -> int:
        """The FFN."""
        return sum(network.all for network in self.networks)


@dataclass(frozen=True, slots=True)
class ForwardFlops:
    """Forward FLOPs of a model's products, by layer; to be made once of a model by `of`."""

    family: Family
    layers: tuple[_Layer, ...]
    transform: int
    """The dense layer that stands before the output matrix of an encoder's head, of one position."""
    output: int
    """The output matrix, of one position."""
    pairs: tuple[int, int]
    """BERT's pooler and its two classes, of one position."""
    normed: bool
    """Whether a norm that learns with the head stands before its first product."""
    ends_in_norm: bool
    """Whether a norm reads what the FFN gives, or the stream behind it."""
    embeds: bool
    """Whether an embedding learns separately from the head."""

    @classmethod
    def of(cls, config: PretrainedConfig, *, every_expert: bool = False) -> "ForwardFlops":
        """Count a model of a known family; `every_expert`: as if each token went through all experts of a mixture."""
        family = family_of(config)
        graph = family.graph(config)
        # A model with an encoder has two stacks, and is not counted.
        (stack,) = graph.stacks
        branches, transform, hidden = stack.layers[0].branches, graph.head.transform, graph.sizes[RESIDUAL]
        return cls(
            family,
            tuple(_layer(graph, layer, every_expert) for layer in stack.layers),
            transform=0 if transform is None else _product(graph, transform),
            # Tied or not, the matrix is there once.
            output=2 * hidden * graph.sizes["vocab"],
            pairs=(2 * hidden**2, 2 * hidden * 2),
            normed=stack.final is not None,
            ends_in_norm=branches[-1].post is not None or branches[-1].ends is not None,
            # A tied embedding stands still with the head.
            embeds=any(tensor.group == "embeddings" for tensor in graph.tensors().values()),
        )


def _product(graph: Model, *linears: Linear) -> int:
    """FLOPs of one vector times each of the matrices."""
    return sum(2 * linear.out.size(graph.sizes) * linear.into.size(graph.sizes) for linear in linears)


def _layer(graph: Model, layer: Layer, every_expert: bool) -> _Layer:
    bodies = [branch.body for branch in layer.branches]
    (attention,) = [body for body in bodies if isinstance(body, Attention)]
    (network,) = [body for body in bodies if not isinstance(body, Attention)]
    # What the last product of a mixture gives is added as it is where a shared network runs last, behind no gate.
    plain: Mlp | None
    networks: tuple[_Network, ...]
    if isinstance(network, Experts):
        plain = network.shared if network.shared_gate is None else None
        gates = [linear for linear in (network.router, network.shared_gate) if linear is not None]
        networks = (
            _Network("router", _product(graph, *gates), 0),
            _network(graph, "expert", *network.each[: None if every_expert else network.per_token]),
            _network(graph, "shared_expert", *([network.shared] if network.shared else [])),
        )
    else:
        plain, networks = network, (_network(graph, None, network),)
    return _Layer(
        inputs=_product(graph, *attention.matrices),
        mixed=_product(graph, attention.last),
        score=2 * graph.sizes["heads"] * (graph.sizes["head_dim"] + graph.sizes[attention.value_port]),
        networks=networks,
        added=0 if plain is None else _product(graph, plain.last),
        added_by_linear=plain is not None and not plain.last.transposed,
        reads_stream=layer.branches[0].pre is None,
    )


def _network(graph: Model, mixture: str | None, *each: Mlp) -> _Network:
    last = _product(graph, *(network.last for network in each))
    return _Network(mixture, last + _product(graph, *(linear for network in each for linear in network.inputs)), last)


def training_step(
    forward: ForwardFlops,
    sequence_length: int,
    tokens: int,
    *,
    scored: int,
    active: ActiveLayers | None = None,
    recomputed: bool = False,
    zero_linear: bool = False,
    causal_scores: Literal["full", "half"] = "full",
    pairs: bool = False,
) -> StepFlops:
    """FLOPs of forward and backward over `tokens` tokens, in sequences of `sequence_length`, all ranks together.

    `scored` is the number of positions that the head scores. `active` says what runs and what of it learns; None is the
    whole model. `recomputed`: activations are checkpointed by layer; `zero_linear`: by DeepSpeed's linear in the place of
    torch's. `causal_scores` halves the scores and the mix of causal models. `pairs`: BERT's pooler and its two classes, on
    one position of each sequence.

    Backward, a matrix product costs its forward once for the gradient of its input, where anything below learns, and once
    for that of its weight, where it learns itself; scores and mix cost theirs twice wherever gradients pass.
    """
    active = active or ActiveLayers.whole(len(forward.layers))
    reaches = active.new_tokens or (active.embeddings and (active.head or forward.embeds))
    # The first layer that gradients go through.
    lowest = 0 if reaches else min(active.layers | active.mixtures, default=active.depth)
    halved = causal_scores == "half" and forward.family.objective == "clm"
    model, again = _nothing(), _nothing()
    for number, layer in enumerate(forward.layers[: active.depth]):
        whole, runs_again = number in active.layers, number >= lowest
        # Of the lowest layer parts of a mixture may learn, and nothing below them.
        passes = runs_again and (number > lowest or reaches or whole)
        products = {
            "attention_projections": layer.inputs + layer.mixed,
            "attention_scores": layer.score * sequence_length // (1 + halved),
            "ffn": layer.ffn,
        }
        model["attention_projections"] += tokens * products["attention_projections"] * (1 + passes + whole)
        model["attention_scores"] += tokens * products["attention_scores"] * (1 + 2 * passes)
        for network in layer.networks:
            learns = network.learns(active, number)
            owed = network.all if passes else network.last * learns
            model["ffn"] += tokens * (network.all * (1 + learns) + owed)
        if number == lowest and whole and not reaches and layer.reads_stream:
            # Nothing below the lowest layer learns. Where q, k and v read its input they owe it no gradient; in a pre-norm
            # layer a norm that learns stands between.
            model["attention_projections"] -= tokens * layer.inputs
        # torch's checkpoints stop where the last tensor that backward needs is there again. That is before the last product,
        # where its result is but added; a norm behind it needs it. DeepSpeed's linear names what it needs after its product,
        # torch's before.
        stops = not forward.ends_in_norm and not (zero_linear and layer.added_by_linear)
        for part, flops in products.items():
            again[part] += tokens * (flops - layer.added * (stops and part == "ffn")) * runs_again
    passes = lowest < active.depth
    model["head"] = (
        scored * _head(forward.transform, forward.output, learns=active.head, passes=passes, normed=forward.normed)
        # The gradient of an output matrix is computed whole, whichever of its rows learn.
        + scored * (forward.output if active.new_tokens and not active.head else 0)
    )
    if pairs:
        model["head"] += tokens // sequence_length * _head(*forward.pairs, learns=active.head, passes=passes, normed=False)
    executed = {part: model[part] + again[part] for part in PARTS} if recomputed else dict(model)
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
