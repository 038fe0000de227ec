"""A state at a model's own random initialization."""

import copy
import math
from collections.abc import Mapping

import torch
from transformers import PretrainedConfig

from pipeline.common import keyed
from pipeline.common.errors import UserError
from pipeline.families import Family, has_key, initializer_range, sizes_of
from pipeline.families.tensors import Init, Tensor
from pipeline.growth.state import State
from pipeline.recipe import GrowthConfig


class InitializedTensor:
    """A tensor at the model's own random initialization, each element a function of (seed, name, index)."""

    def __init__(self, shape: tuple[int, ...], init: Init, key: tuple[object, ...]) -> None:
        self.shape = shape
        self._init = init
        self._key = key

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32."""
        return self.block(start, stop, 0, math.prod(self.shape[1:])).reshape(stop - start, *self.shape[1:])

    def block(self, start: int, stop: int, first: int, last: int) -> torch.Tensor:
        """Return columns [first, last) of rows [start, stop), each row flattened; no others are drawn."""
        if isinstance(self._init, str):
            return torch.full((stop - start, last - first), float(self._init == "ones"))
        values = keyed.normal_block(self._key, (start, stop), (first, last), math.prod(self.shape[1:]))
        return torch.from_numpy(values).mul_(self._init)


def initialized(family: Family, config: PretrainedConfig, seed: int) -> State:
    """Return a model at the family's own random initialization."""
    graph = family.graph(config)
    return initial_state(graph.tensors(), graph.sizes, seed)


def initial_state(tensors: Mapping[str, Tensor], sizes: Mapping[str, int], seed: int) -> Mapping[str, InitializedTensor]:
    """Return tensors of these sizes at their own random initialization."""
    return {name: InitializedTensor(tensor.shape(sizes), tensor.init, ("init", seed, name)) for name, tensor in tensors.items()}


def drawing(config: PretrainedConfig, growth: GrowthConfig) -> PretrainedConfig:
    """Return a copy of a configuration that says how a growth draws random weights.

    Raises UserError where the growth says so and its class has no such key.
    """
    config = copy.deepcopy(config)
    if growth.initializer_range is None:
        return config
    if not has_key(config, "initializer_range"):
        raise UserError(f"growth.initializer_range: a {config.model_type} has no such key; leave it out")
    config.initializer_range = initializer_range(growth.initializer_range, sizes_of(config).hidden_size)
    return config
