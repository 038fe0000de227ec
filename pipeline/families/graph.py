"""A model as a graph of nodes that read and write along the ports of `tensors.py`: branches, layers, stacks, the model.

A family's file makes one `Model` of a configuration. Shapes, growth, exactness, FLOPs, freezing and Muon's matrices are read
off it, and off nothing else.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.families.active_layers import NO_MIXTURES, Mixtures
from pipeline.families.primitives import Embedding, Latent, Linear, Norm, Rotary
from pipeline.families.tensors import (
    EXPERT_NUMBER,
    KEY_PORTS,
    LAYER_NUMBER,
    LOGITS,
    QUERY_PORTS,
    RESIDUAL,
    STREAM,
    Axis,
    Init,
    ParameterGroup,
    Role,
    Tensor,
)


@dataclass(frozen=True, slots=True)
class Attention:
    """Scores of queries and keys, and the mix of values."""

    inputs: tuple[Linear, ...]
    """What makes queries, keys and values, by the parts of their outputs; one where they are fused."""
    output: Linear
    latents: tuple[Latent, ...] = ()
    """What some of `inputs` read, by port. Queries and keys are then each of two parts: `query_rope` and `key_rope`, which
    positions turn, and `query` and `key`, which they do not; `key_rope` is one for all heads."""
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    rotary: Rotary | None = None
    score: float = 1.0
    """What q k is multiplied by, but for what rotary positions multiply it by (yarn)."""
    capped: bool = False
    """Whether scores go through a tanh."""
    cross: bool = False
    """Whether keys and values are made of what the encoder gives, and not of the stream."""

    def reads_encoder(self, linear: Linear) -> bool:
        """Whether one of `inputs` reads what the encoder gives."""
        return self.cross and all(part.name != "query" for part in linear.out.parts)

    @property
    def last(self) -> Linear:
        """What writes the branch."""
        return self.output

    @property
    def matrices(self) -> list[Linear]:
        """All that make queries, keys and values, those of latents among them."""
        return [*(latent.linear for latent in self.latents), *self.inputs]

    @property
    def value_port(self) -> str:
        """The port of a head's values."""
        return self.output.into.parts[0].ports[1]


@dataclass(frozen=True, slots=True)
class Mlp:
    """A feed-forward network: last(act(up(x))), or last(act(gate(x)) * up(x))."""

    inputs: tuple[Linear, ...]
    """By the parts of their outputs: gate and up, or one without a name."""
    last: Linear

    @property
    def gated(self) -> bool:
        """Whether there is a gate."""
        return any(part.name == "gate" for linear in self.inputs for part in linear.out.parts)


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: the feed-forward networks that a router chooses for a token, each times its gate, and summed."""

    router: Linear
    """What makes the experts' logits, by expert; `gate` makes scores of them."""
    each: tuple[Mlp, ...]
    """The experts, by number."""
    per_token: int
    """How many are chosen for a token."""
    renormalized: bool
    """Whether the gates, which are the scores of those that are chosen, are divided by their sum."""
    gate: Literal["softmax", "sigmoid"] = "softmax"
    """Scores are the softmax of all logits, or the sigmoid of each."""
    scaling: float = 1.0
    """What gates are multiplied by in the end."""
    selection_bias: str | None = None
    """A buffer, [experts]: what is added to scores to choose experts by, and not to gates (Wang et al. 2024, 2408.15664)."""
    groups: int = 1
    """Experts stand in so many groups of equal size, one behind the other."""
    groups_per_token: int = 1
    """How many groups a token's experts are of: those in which the two highest scores have the largest sum."""
    shared: Mlp | None = None
    """A network that every token goes through."""
    shared_gate: Linear | None = None
    """What its output is multiplied by, behind a sigmoid."""

    @property
    def grouped(self) -> bool:
        """Whether a token's experts are of some groups alone."""
        return self.groups_per_token < self.groups

    @property
    def networks(self) -> list[Mlp]:
        """All of them, the shared one last."""
        return [*self.each, *([] if self.shared is None else [self.shared])]


@dataclass(frozen=True, slots=True)
class Branch:
    """What adds to the stream."""

    body: Attention | Mlp | Experts
    pre: Norm | None = None
    """Reads the stream, and the body reads it."""
    post: Norm | None = None
    """Reads what the body gives, and is added."""
    scale: float = 1.0
    """What is added is multiplied by it."""
    ends: Norm | None = None
    """Reads the stream once the branch is added to it, and overwrites it (post-LN)."""

    @property
    def writers(self) -> list[Linear]:
        """What writes what is added; several where experts do."""
        return [each.last for each in self.body.networks] if isinstance(self.body, Experts) else [self.body.last]


@dataclass(frozen=True, slots=True)
class Layer:
    """Groups of branches, one after the other; the branches of a group read the same stream."""

    groups: tuple[tuple[Branch, ...], ...]
    kind: Mapping[str, Any] = field(default_factory=dict)
    """What the configuration's lists say of this layer."""

    @classmethod
    def sequential(cls, *branches: Branch) -> "Layer":
        """Branches one after the other."""
        return cls(tuple((branch,) for branch in branches))

    @classmethod
    def parallel(cls, *branches: Branch) -> "Layer":
        """Branches that read the same stream."""
        return cls((branches,))

    @property
    def branches(self) -> list[Branch]:
        """All of them."""
        return [branch for group in self.groups for branch in group]

    @property
    def experts(self) -> list[Experts]:
        """The mixtures of experts among them."""
        return [branch.body for branch in self.branches if isinstance(branch.body, Experts)]

    @property
    def form(self) -> tuple[Any, ...]:
        """What it does whatever its weights are: what the lists say of it, and which norms it has."""
        norms = [tuple(norm is not None for norm in (each.pre, each.post, each.ends)) for each in self.branches]
        return dict(self.kind), norms


@dataclass(frozen=True, slots=True)
class Stack:
    """Embeddings that are summed, layers, and a norm before and behind them."""

    embeddings: tuple[Embedding, ...]
    layers: tuple[Layer, ...]
    embedding_norm: Norm | None = None
    final: Norm | None = None
    relative_positions: Embedding | None = None
    """What is added to the scores of each head by the distance of query and key: one table for all layers, and for none of
    their cross-attention."""


@dataclass(frozen=True, slots=True)
class Head:
    """What makes logits of the last stream."""

    matrix: str
    """Its own, [vocab, residual], or the embedding that it is tied to."""
    tied: bool
    biases: tuple[str, ...] = ()
    """Of the logits; a class may have another that it leaves unused."""
    transform: Linear | None = None
    norm: Norm | None = None
    """Reads what the transform gives."""
    scale: float = 1.0
    """What logits are multiplied by."""
    capped: bool = False
    """Whether logits go through a tanh."""
    init: Init = 0.02


@dataclass(frozen=True, slots=True)
class Pooler:
    """A head on pairs of sequences: classes of the first position, through a layer with a tanh."""

    dense: Linear
    classes: Linear


@dataclass(frozen=True, slots=True)
class Joined:
    """A parameter of the class that files hold in parts: the elements of stored tensors, one behind the other."""

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]
    """The parameter's own."""


@dataclass(frozen=True, slots=True)
class Model:
    """All of a model."""

    sizes: Mapping[str, int]
    """By port."""
    stack: Stack
    """Whose stream the head reads."""
    head: Head
    pooler: Pooler | None = None
    encoder: Stack | None = None
    """Whose stream, behind its final norm, the cross-attention of `stack` reads."""
    joined: tuple[Joined, ...] = ()
    """The class's parameters that are not stored as they are."""

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All of them, in the order in which they run."""
        return (self.stack,) if self.encoder is None else (self.encoder, self.stack)

    @property
    def layers(self) -> list[Layer]:
        """Those of all stacks, in the order in which they run, by which they are numbered."""
        return [layer for stack in self.stacks for layer in stack.layers]

    @property
    def ranges(self) -> list[range]:
        """The numbers of the layers of each stack."""
        ends = list(itertools.accumulate((len(stack.layers) for stack in self.stacks), initial=0))
        return [range(first, end) for first, end in itertools.pairwise(ends)]

    def stack_of(self, layer: int) -> range:
        """Return the numbers of all layers of the stack that a layer is of."""
        return next(numbers for numbers in self.ranges if layer in numbers)

    @staticmethod
    def of_expert(name: str, expert: int) -> str:
        """Return the name that the tensor `name` of some expert has in another one."""
        return EXPERT_NUMBER.sub(str(expert), name, count=1)

    def at_layer(self, name: str, layer: int) -> str:
        """Return the name that the tensor `name` of some layer has in another layer, of the same stack."""
        return LAYER_NUMBER.sub(str(layer - self.stack_of(layer).start), name, count=1)

    @property
    def writes_by_norms(self) -> bool:
        """Whether norms overwrite the stream behind each branch (post-LN)."""
        return any(branch.ends is not None for branch in self.stack.layers[0].branches)

    @property
    def holds_means(self) -> bool:
        """Whether new channels can be held at zero, or at the mean of the others: no norm and no activation writes them."""
        return not self.writes_by_norms and self.stack.embedding_norm is None and self.head.transform is None

    @property
    def rotary(self) -> bool:
        """Whether positions turn queries and keys."""
        return any(isinstance(branch.body, Attention) and branch.body.rotary for branch in self.stack.layers[0].branches)

    @property
    def norms_all_heads(self) -> bool:
        """Whether one norm goes over the queries of all heads, so that new heads can be copies alone."""
        bodies = (branch.body for branch in self.stack.layers[0].branches)
        norms = (body.query_norm for body in bodies if isinstance(body, Attention))
        return any(norm is not None and norm.span == "all" for norm in norms)

    @property
    def stream_norm(self) -> str:
        """How the norms that meet the stream normalize: layer or rms."""
        (kind,) = {norm.kind for norm in self.stream_norms()}
        return kind

    def stream_norms(self) -> list[Norm]:
        """Return the norms over the stream's channels, a transform's before the output matrix among them, each once."""
        norms: list[Norm | None] = []
        for stack in self.stacks:
            branches = [branch for layer in stack.layers for branch in layer.branches]
            norms += [
                stack.embedding_norm,
                *(norm for branch in branches for norm in (branch.pre, branch.post, branch.ends)),
                stack.final,
            ]
        norms.append(self.head.norm)
        return list(dict.fromkeys(norm for norm in norms if norm is not None))

    @property
    def experts(self) -> list[tuple[int, Experts]]:
        """Its mixtures of experts, each with the number of its layer."""
        return [(number, body) for number, layer in enumerate(self.layers) for body in layer.experts]

    @property
    def expert_port(self) -> str | None:
        """The port of the units of experts; None where there are none."""
        return next((body.each[0].last.into.parts[0].ports[0] for _, body in self.experts), None)

    @property
    def active_parameters(self) -> int:
        """How many of them a token meets: of a mixture the experts that are chosen alone."""
        unused = (network for _, body in self.experts for network in body.each[body.per_token :])
        return self.parameters - sum(
            math.prod(tensor.shape(self.sizes)) for network in unused for tensor in network_tensors(network, 0)
        )

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the class's own parameters, and of the buffers that files hold, by name."""
        joined = {joined.name: joined.shape for joined in self.joined}
        return {name: joined.get(name) or held[0].shape(self.sizes) for name, held in self.held().items()}

    def held(self) -> dict[str, tuple[Tensor, ...]]:
        """Return the tensors that each of the class's own parameters, or buffers, holds, by its name; several if joined."""
        tensors = self.tensors()
        stored = {part for joined in self.joined for part in joined.parts}
        plain = {name: (tensor,) for name, tensor in tensors.items() if name not in stored}
        return plain | {joined.name: tuple(tensors[part] for part in joined.parts) for joined in self.joined}

    @property
    def mixtures(self) -> Mixtures:
        """Its mixtures of experts, if it has any."""
        found = dict(self.experts)
        if not found:
            return NO_MIXTURES
        return Mixtures(
            frozenset(found), max(len(body.each) for body in found.values()), any(body.shared for body in found.values())
        )

    @property
    def parameters(self) -> int:
        """How many numbers it learns."""
        return sum(math.prod(tensor.shape(self.sizes)) for tensor in self.tensors().values() if not tensor.buffer)

    def fan_in(self, tensor: Tensor) -> int:
        """Return how many products a tensor's outputs are each the sum of: 1 for vectors and for rows that are looked up.

        A matrix that embedding and head share sums the stream, as a head's own does.
        """
        if self.head.tied and tensor.name == self.head.matrix:
            return self.sizes[RESIDUAL]
        return math.prod(axis.size(self.sizes) for axis, role in zip(tensor.axes, tensor.roles, strict=True) if role == "in")

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by name, in a fixed order; one that two nodes read is there once."""
        return {tensor.name: tensor for tensor in self._tensors()}

    def _tensors(self) -> Iterator[Tensor]:
        head = self.head
        for stack, numbers in zip(self.stacks, self.ranges, strict=True):
            for table in stack.embeddings:
                group: ParameterGroup = "head" if head.tied and table.weight == head.matrix else "embeddings"
                yield Tensor(table.weight, (Axis.of(table.port), STREAM), ("index", "out"), table.init, group)
            yield from norm_tensors(stack.embedding_norm, "embeddings")
            if (bias := stack.relative_positions) is not None:
                yield Tensor(bias.weight, (Axis.of(bias.port), Axis.of("heads")), ("index", "out"), bias.init, "embeddings")
            for number, layer in zip(numbers, stack.layers, strict=True):
                for branch in layer.branches:
                    yield from branch_tensors(branch, number)
            # What the encoder gives is to the other stack what embeddings are.
            yield from norm_tensors(stack.final, "head" if stack is self.stack else "embeddings")
        if head.transform is not None:
            yield from linear_tensors(head.transform, "head")
        yield from norm_tensors(head.norm, "head")
        if not head.tied:
            yield Tensor(head.matrix, (LOGITS, STREAM), ("out", "in"), head.init, "head")
        for name in head.biases:
            yield Tensor(name, (LOGITS,), ("out",), "zeros", "head")
        if self.pooler is not None:
            yield from linear_tensors(self.pooler.dense, "head")
            yield from linear_tensors(self.pooler.classes, "head")


def norm_tensors(norm: Norm | None, group: ParameterGroup, layer: int | None = None, axis: Axis = STREAM) -> Iterator[Tensor]:
    """Yield the tensors of a norm."""
    if norm is not None:
        yield Tensor(norm.gain, (axis,), ("out",), "zeros" if norm.offset else "ones", group, layer, norm.offset)
        if norm.bias is not None:
            yield Tensor(norm.bias, (axis,), ("out",), "zeros", group, layer)


def linear_tensors(linear: Linear, group: ParameterGroup, layer: int | None = None) -> Iterator[Tensor]:
    """Yield the tensors of a linear."""
    axes: tuple[tuple[Axis, Role], ...] = ((linear.out, "out"), (linear.into, "in"))
    stored, roles = zip(*(axes[::-1] if linear.transposed else axes), strict=True)
    yield Tensor(linear.weight, stored, roles, linear.init, group, layer)
    if linear.bias is not None:
        yield Tensor(linear.bias, (linear.out,), ("out",), "zeros", group, layer)


def head_norms(body: Attention) -> Iterator[tuple[Norm, str, Axis]]:
    """Yield the norms over queries and keys, the part that each reads, and its axis."""
    for norm, part, ports in ((body.query_norm, "query", QUERY_PORTS), (body.key_norm, "key", KEY_PORTS)):
        if norm is not None:
            yield norm, part, Axis.of("head_dim", part=part) if norm.span == "head" else Axis.of(*ports, part=part)


def network_tensors(body: Attention | Mlp, layer: int) -> Iterator[Tensor]:
    """Yield the tensors of attention or of a feed-forward network."""
    for latent in body.latents if isinstance(body, Attention) else ():
        yield from linear_tensors(latent.linear, "layer", layer)
        yield from norm_tensors(latent.norm, "layer", layer, latent.axis)
    for linear in body.inputs:
        yield from linear_tensors(linear, "layer", layer)
    if isinstance(body, Attention):
        for norm, _, axis in head_norms(body):
            yield from norm_tensors(norm, "layer", layer, axis)
    yield from linear_tensors(body.last, "layer", layer)


def of_mixture(tensors: Iterator[Tensor], what: Literal["router", "shared_expert"]) -> Iterator[Tensor]:
    """Yield tensors as those of some part of a mixture of experts."""
    return (replace(tensor, mixture=what) for tensor in tensors)


def branch_tensors(branch: Branch, layer: int) -> Iterator[Tensor]:
    """Yield the tensors of a branch."""
    body = branch.body
    yield from norm_tensors(branch.pre, "layer", layer)
    if isinstance(body, Experts):
        yield from of_mixture(linear_tensors(body.router, "layer", layer), "router")
        if body.selection_bias is not None:
            yield Tensor(body.selection_bias, (Axis.of("experts"),), ("out",), "zeros", "layer", layer, buffer=True)
        for number, network in enumerate(body.each):
            for tensor in network_tensors(network, layer):
                yield replace(tensor, expert=number, mixture="expert")
        if body.shared is not None:
            yield from of_mixture(network_tensors(body.shared, layer), "shared_expert")
        if body.shared_gate is not None:
            yield from of_mixture(linear_tensors(body.shared_gate, "layer", layer), "router")
    else:
        yield from network_tensors(body, layer)
    yield from norm_tensors(branch.post, "layer", layer)
    yield from norm_tensors(branch.ends, "layer", layer)
