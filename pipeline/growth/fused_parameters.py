"""The parameters of a class that joins stored tensors, and the stored tensors that a class's parameters hold."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from pipeline.families.graph import Model
from pipeline.families.tensors import Tensor
from pipeline.growth.state import OptimizerState, Rows, State, as_rows, default_value, flat


class ConcatenatedRows:
    """A parameter that holds the elements of several tensors, one after the other."""

    def __init__(self, shape: tuple[int, ...], parts: Sequence[Rows]) -> None:
        self.shape, self.parts = shape, parts

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        width = math.prod(self.shape[1:])
        return self.flat(start * width, stop * width).reshape(stop - start, *self.shape[1:])

    def flat(self, start: int, stop: int) -> torch.Tensor:
        """Return elements [start, stop) of the parameter flattened; of each tensor no more rows are read than hold them."""
        sizes = [math.prod(part.shape) for part in self.parts]
        return torch.cat([flat(self.parts[number], first, last) for number, first, last, _ in _overlaps(sizes, start, stop)])


class FlatSlice:
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
    return plain | {each.name: ConcatenatedRows(each.shape, [state[part] for part in each.parts]) for each in model.joined}


def optimizer_of_parameters(model: Model, state: OptimizerState) -> OptimizerState:
    """Return what an optimizer keeps of the class's parameters, where `state` is of stored tensors."""
    found, held = dict(state), model.held()
    for each in model.joined:
        kept = [found.pop(part, {}) for part in each.parts]
        shapes = [tensor.shape(model.sizes) for tensor in held[each.name]]
        keys = dict.fromkeys(key for of_part in kept for key in of_part)
        joined = {key: _joined(each.shape, shapes, [of_part.get(key, default_value(key)) for of_part in kept]) for key in keys}
        if joined:
            found[each.name] = joined
    return found


def _joined(shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]], values: Sequence[Rows | float]) -> Rows | float:
    """Return what is kept of a parameter, of what is kept of its parts: one number, where it is the same throughout."""
    if all(isinstance(value, float) for value in values) and len(set(values)) == 1:
        return values[0]
    return ConcatenatedRows(shape, list(map(as_rows, values, shapes)))


def stored_of(model: Model, parameters: State) -> State:
    """Return the stored tensors of a state of the class's parameters."""
    tensors, held, found = model.tensors(), model.held(), dict(parameters)
    for each in model.joined:
        found |= split_parameter(held[each.name], model.sizes, found.pop(each.name))
    # Gradients and moments are of parameters alone.
    return {name: found[name] for name, tensor in tensors.items() if not tensor.buffer or name in found}


def stored_optimizer(model: Model, state: OptimizerState) -> OptimizerState:
    """Return what an optimizer keeps of stored tensors, where `state` is of the class's parameters."""
    found, held = dict(state), model.held()
    for each in model.joined:
        found |= split_kept(held[each.name], model.sizes, found.pop(each.name, {}))
    return found


def split_kept(
    tensors: Sequence[Tensor], sizes: Mapping[str, int], kept: Mapping[str, Rows | float]
) -> dict[str, dict[str, Rows | float]]:
    """Return what is kept of the stored tensors that one of the class's parameters holds, of what is kept of that."""
    found: dict[str, dict[str, Rows | float]] = {}
    for key, value in kept.items():
        of_parts = dict.fromkeys((tensor.name for tensor in tensors), value)
        for part, of_part in (of_parts if isinstance(value, float) else split_parameter(tensors, sizes, value)).items():
            found.setdefault(part, {})[key] = of_part
    return found


def split_parameter(tensors: Sequence[Tensor], sizes: Mapping[str, int], whole: Rows) -> dict[str, Rows]:
    """Return the stored tensors whose elements one of the class's parameters holds."""
    size = math.prod(whole.shape)
    return {
        tensor.name: FlatSlice(whole, place, tensor.shape(sizes)) for tensor, _, _, place in slices_of(tensors, sizes, 0, size)
    }


def slices_of(
    tensors: Sequence[Tensor], sizes: Mapping[str, int], start: int, stop: int
) -> Iterator[tuple[Tensor, int, int, int]]:
    """Yield what elements [start, stop) of a parameter that holds these tensors are of each of them.

    That is the tensor, the first of its elements, the one after the last, and by how much they begin behind `start`.
    """
    elements = [math.prod(tensor.shape(sizes)) for tensor in tensors]
    for number, first, last, place in _overlaps(elements, start, stop):
        yield tensors[number], first, last, place


def _overlaps(sizes: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the same of tensors of so many elements, each by its number."""
    begin = 0
    for number, size in enumerate(sizes):
        first, last = max(start - begin, 0), min(stop - begin, size)
        if first < last:
            yield number, first, last, begin + first - start
        begin += size
