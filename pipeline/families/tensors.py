"""The ports of a model, and the tensors whose axes lie on them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
"""The first such number in the name of a layer's tensor is that of the layer within its stack."""

EXPERT_NUMBER = re.compile(r"(?<=\.experts\.)\d+(?=\.)")
"""That of the expert that a tensor is of."""

RESIDUAL = "residual"
"""The port of the residual stream's channels. The other ports that rules know: heads, kv_heads, head_dim, vocab, experts, the
units of feed-forward networks, which end in ffn, and of attention over latents those that go by its configuration's keys."""

Role = Literal["out", "in", "index"]
"""Of an axis: produced by the forward pass; summed over in it; rows that are looked up."""

ParameterGroup = Literal["embeddings", "layer", "head"]
"""What a tensor is trained and frozen with."""

Init = float | Literal["zeros", "ones"]
"""The model's own initialization; a number is a normal distribution's standard deviation."""


@dataclass(frozen=True, slots=True)
class AxisPart:
    """One of the things that lie along an axis: the product of its ports, the first outermost."""

    ports: tuple[str, ...]
    name: str = ""
    """What the node that has it calls it: query, key, value, gate, up."""

    def __repr__(self) -> str:
        """`heads*head_dim:query`; short, since layers are compared by what they look like."""
        return f"{'*'.join(self.ports)}:{self.name}"


@dataclass(frozen=True, slots=True)
class Axis:
    """One storage axis of a tensor: parts one behind the other, within each index of the first `outer` ports."""

    parts: tuple[AxisPart, ...]
    outer: int = 0
    """Ports that all parts begin with and that stand outside of them (GPT-NeoX: heads; gpt-oss: units of the FFN)."""

    def __repr__(self) -> str:
        """Its parts, and how many ports stand outside."""
        return f"{self.parts}{self.outer}"

    @classmethod
    def of(cls, *ports: str, part: str = "") -> "Axis":
        """One thing along all of the axis."""
        return cls((AxisPart(ports, part),))

    @property
    def ports(self) -> frozenset[str]:
        """All ports that it lies on."""
        return frozenset(port for part in self.parts for port in part.ports)

    def size(self, sizes: Mapping[str, int]) -> int:
        """How many indices it has."""
        return sum(numel(part.ports, sizes) for part in self.parts)

    def places(self, number: int, sizes: Mapping[str, int]) -> torch.Tensor:
        """Return where along the axis each index of a part stands, int64."""
        outer = numel(self.parts[number].ports[: self.outer], sizes)
        inner = [numel(part.ports[self.outer :], sizes) for part in self.parts]
        first = sum(inner[:number])
        return (torch.arange(outer)[:, None] * sum(inner) + first + torch.arange(inner[number])).reshape(-1)


def numel(ports: tuple[str, ...], sizes: Mapping[str, int]) -> int:
    """Return the number of indices of a product of ports."""
    return math.prod(sizes[port] for port in ports)


STREAM = Axis.of(RESIDUAL)
QUERY_PORTS, KEY_PORTS = ("heads", "head_dim"), ("kv_heads", "head_dim")
MIXED = Axis.of(*QUERY_PORTS, part="value")
"""What attention's output projection reads."""
UNITS = Axis.of("ffn")
LOGITS = Axis.of("vocab")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model, under Hugging Face's name."""

    name: str
    axes: tuple[Axis, ...]
    """In the order of storage."""
    roles: tuple[Role, ...]
    init: Init
    group: ParameterGroup
    layer: int | None = None
    """Counted over all stacks, as `Model.layers` has them."""
    offset: float = 0.0
    """What the model adds to it (Gemma's gains: 1)."""
    expert: int | None = None
    """The expert that it is of."""
    mixture: Literal["router", "expert", "shared_expert"] | None = None
    """What of a mixture of experts it is of; the gate of a shared expert is of the router."""
    buffer: bool = False
    """Whether it is a buffer of the class that files hold, float32 whatever the weights are, and no parameter: no gradient
    reaches it."""

    @property
    def decays(self) -> bool:
        """Matrices decay; biases and norms do not."""
        return len(self.axes) > 1

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The storage shape."""
        return tuple(axis.size(sizes) for axis in self.axes)
