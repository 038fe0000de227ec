"""A state: named tensors that can be read by row range, so that any process can read any slice of any of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from transformers import PretrainedConfig

from pipeline.common.heartbeat import beat
from pipeline.families import Family


class Rows(Protocol):
    """One tensor of a state. Rows are slices along the first storage axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The storage shape."""
        ...

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32 or wider."""
        ...


class Blocks(Rows, Protocol):
    """Rows of which some columns alone can be read."""

    def block(self, start: int, stop: int, first: int, last: int) -> torch.Tensor:
        """Return columns [first, last) of rows [start, stop), each row flattened."""
        ...


AnyRows = TypeVar("AnyRows", bound=Rows)


class Constant:
    """A tensor of one value."""

    def __init__(self, shape: tuple[int, ...], value: float) -> None:
        self.shape = shape
        self._value = value

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32."""
        return torch.full((stop - start, *self.shape[1:]), self._value)

    def block(self, start: int, stop: int, first: int, last: int) -> torch.Tensor:
        """Return columns [first, last) of rows [start, stop), each row flattened."""
        return torch.full((stop - start, last - first), self._value)


class Shifted(Generic[AnyRows]):
    """A tensor with a constant added, in float64: the sum of a small number and 1 does not fit both in float32."""

    def __init__(self, tensor: AnyRows, offset: float, dtype: torch.dtype = torch.float64) -> None:
        """The sum is then rounded to `dtype`."""
        self.shape = tensor.shape
        self.tensor = tensor
        self._offset, self._dtype = offset, dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        return (self.tensor.rows(start, stop).double() + self._offset).to(self._dtype)

    def block(self: "Shifted[Blocks]", start: int, stop: int, first: int, last: int) -> torch.Tensor:
        """Return columns [first, last) of rows [start, stop), each row flattened."""
        return (self.tensor.block(start, stop, first, last).double() + self._offset).to(self._dtype)


State = Mapping[str, Rows]
"""A model's tensors by name."""

OptimizerState = Mapping[str, Mapping[str, Rows | float]]
"""What an optimizer keeps of each tensor, by name and then by its own key (Adam: exp_avg, exp_avg_sq,
step); a float holds for the whole tensor."""


def as_rows(kept: Rows | float, shape: tuple[int, ...]) -> Rows:
    """Return what is kept of a tensor of this shape, where it may be one number for all elements."""
    return Constant(shape, kept) if isinstance(kept, float) else kept


def default_value(key: str) -> float:
    """What an optimizer's key is for an element that nothing is said of: as if it had never been stepped."""
    return 1.0 if key.endswith("_factor") else 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """A model to grow, of whatever format."""

    directory: Path
    config: PretrainedConfig
    family: Family
    state: State
    optimizer: OptimizerState | None = None
    """None where only weights were kept."""
    remarks: tuple[str, ...] = ()
    """What a person must know of how the model was read: sentences without a full stop, shown wherever a growth is."""
    described_in: Path | None = None
    """The directory of its config.json, where that is another one: a checkpoint of another tool's has none of its own."""

    @property
    def without_weights(self) -> bool:
        """Whether it is a configuration alone, and its tensors are `Described`."""
        return all(isinstance(tensor, Described) for tensor in self.state.values())

    @property
    def beside(self) -> Path:
        """The directory of its configuration, and of the tokenizer's files and others that come with a model."""
        return self.described_in or self.directory


class Described:
    """A tensor of which only shape and dtype are known; its rows are described too, and hold no values."""

    def __init__(self, shape: tuple[int, ...], stored: torch.dtype) -> None:
        self.shape = shape
        self.stored = stored

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) on torch's `meta` device, as float32 or wider."""
        dtype = torch.promote_types(self.stored, torch.float32)
        return torch.empty(stop - start, *self.shape[1:], dtype=dtype, device="meta")


def stored_dtype(tensor: Rows) -> torch.dtype:
    """The dtype that a tensor has on disk; a checkpoint's masters are float32."""
    return getattr(tensor, "stored", torch.float32)


def flat(tensor: Rows, start: int, stop: int) -> torch.Tensor:
    """Return elements [start, stop) of the tensor flattened row-major, reading whole rows and cutting the ragged ends."""
    beat()
    if hasattr(tensor, "flat"):
        # A tensor of three axes, whose rows are whole matrices, reads less.
        return tensor.flat(start, stop)
    width = math.prod(tensor.shape[1:])
    first, last = start // width, -(-stop // width)
    return tensor.rows(first, last).reshape(-1)[start - first * width : stop - first * width]
