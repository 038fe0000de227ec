"""A state at a model's own random initialization."""

import math

import torch
from transformers import PretrainedConfig

from pipeline import keyed
from pipeline.families import Family, TensorSpec, sizes_of
from pipeline.growth.state import Rows, State


class InitializedTensor:
    """A tensor at the model's own random initialization, each element a function of (seed, name, index)."""

    def __init__(self, shape: tuple[int, ...], kind: str, std: float, key: tuple[object, ...]) -> None:
        self.shape = shape
        self._kind = kind
        self._std = std
        self._key = key

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32."""
        shape = (stop - start, *self.shape[1:])
        if self._kind in ("zeros", "ones"):
            return torch.full(shape, float(self._kind == "ones"))
        width = math.prod(self.shape[1:])
        values = keyed.normal(self._key, start * width, (stop - start) * width)
        return torch.from_numpy(values).mul_(self._std).reshape(shape)


def initialized(family: Family, config: PretrainedConfig, seed: int) -> State:
    """Return a model at the family's own random initialization."""
    sizes = sizes_of(config)

    def tensor(name: str, spec: TensorSpec) -> Rows:
        std = config.initializer_range
        if spec.init == "normal_residual":
            std /= math.sqrt(2 * sizes.num_hidden_layers)
        return InitializedTensor(sizes.shape(spec), spec.init, std, ("init", seed, name))

    return {name: tensor(name, spec) for name, (spec, _) in family.specs(sizes).items()}
