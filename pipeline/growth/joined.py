"""The parameters of a class that joins stored tensors, and the stored tensors that a class's parameters hold."""

import math
from collections.abc import Sequence

import torch

from pipeline.families.graph import Model
from pipeline.growth.state import Rows, State, flat


class JoinedRows:
    """A parameter that holds the elements of several tensors, one behind the other."""

    def __init__(self, shape: tuple[int, ...], parts: Sequence[Rows]) -> None:
        self.shape, self.parts = shape, parts

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        width = math.prod(self.shape[1:])
        return self.flat(start * width, stop * width).reshape(stop - start, *self.shape[1:])

    def flat(self, start: int, stop: int) -> torch.Tensor:
        """Return elements [start, stop) of the parameter flattened; of each tensor no more rows are read than hold them."""
        found, begin = [], 0
        for part in self.parts:
            size = math.prod(part.shape)
            first, last = max(start - begin, 0), min(stop - begin, size)
            if first < last:
                found.append(flat(part, first, last))
            begin += size
        return torch.cat(found)


class PartRows:
    """One of the tensors whose elements a parameter holds, from element `first` on."""

    def __init__(self, whole: Rows, first: int, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._whole, self._first = whole, first

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        width = math.prod(self.shape[1:])
        values = flat(self._whole, self._first + start * width, self._first + stop * width)
        return values.reshape(stop - start, *self.shape[1:])


def parameters_of(model: Model, state: State) -> State:
    """Return the class's parameters, by its own names, of a state of stored tensors."""
    stored = {part for joined in model.joined for part in joined.parts}
    plain = {name: tensor for name, tensor in state.items() if name not in stored}
    return plain | {each.name: JoinedRows(each.shape, [state[part] for part in each.parts]) for each in model.joined}


def stored_of(model: Model, parameters: State) -> State:
    """Return the stored tensors of a state of the class's parameters."""
    tensors, found = model.tensors(), dict(parameters)
    for each in model.joined:
        whole, begin = found.pop(each.name), 0
        for part in each.parts:
            shape = tensors[part].shape(model.sizes)
            found[part] = PartRows(whole, begin, shape)
            begin += math.prod(shape)
    # Gradients and moments are of parameters alone.
    return {name: found[name] for name, tensor in tensors.items() if not tensor.buffer or name in found}
