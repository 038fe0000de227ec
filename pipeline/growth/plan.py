"""The growth plan: for each target tensor, the rows and columns of the source it copies, their scales and noise.

A grown tensor is itself a tensor that can be read by row range, so any process makes any piece of
the target on its own, the same bits at any world size.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pipeline import keyed
from pipeline.families import Axis, AxisKind, Family, Sizes, TensorSpec
from pipeline.growth.axes import AxisMap, build_maps
from pipeline.growth.depth import LayerOrigin, layer_origins
from pipeline.growth.huggingface import MappedTensor
from pipeline.recipe import GrowthConfig

_STD_ELEMENTS = 1 << 20
"""Elements of a source tensor that are read at once for its standard deviation."""


@dataclass(frozen=True, slots=True)
class AxisPlan:
    """One storage axis of one grown tensor."""

    indices: torch.Tensor
    """Source index of each target index."""
    scale: torch.Tensor | None
    """What each target index is multiplied by, float64; None for 1 throughout."""
    new: torch.Tensor
    """Which target indices the source does not have."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise on what is new, as a share of the source tensor's standard deviation."""

    share: float
    key: tuple[object, ...]


class GrownTensor:
    """A target tensor made of a source tensor's rows and columns."""

    def __init__(self, source: MappedTensor, axes: tuple[AxisPlan, ...], *, silent: bool, noise: Noise | None) -> None:
        self.shape = tuple(len(axis.indices) for axis in axes)
        self._source = source
        self._rows = axes[0]
        self._columns = axes[1] if len(axes) > 1 else None
        self._silent = silent
        self._noise = noise
        self._std: float | None = None

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32 or wider: W'[j, i] = W[g(j), g(i)] * scale(j) * scale(i)."""
        if self._silent:
            return torch.zeros(stop - start, *self.shape[1:])
        columns = self._columns
        grown = self._source.select(self._rows.indices[start:stop], None if columns is None else columns.indices)
        if self._noise is not None:
            grown = grown + self._noise_rows(start, stop).to(grown.dtype)
        if self._rows.scale is not None:
            scale = self._rows.scale[start:stop].to(grown.dtype)
            grown = grown * (scale if columns is None else scale[:, None])
        if columns is not None and columns.scale is not None:
            grown = grown * columns.scale.to(grown.dtype)
        return grown

    def _noise_rows(self, start: int, stop: int) -> torch.Tensor:
        """NAI 3.3.1: a little noise on the new part, before the normalization by 1/C."""
        if self._std is None:
            self._std = _standard_deviation(self._source)
        width = math.prod(self.shape[1:])
        values = keyed.normal(self._noise.key, start * width, (stop - start) * width)
        noise = torch.from_numpy(values).reshape(stop - start, *self.shape[1:]) * (self._noise.share * self._std)
        new = self._rows.new[start:stop]
        if self._columns is not None:
            new = new[:, None] | self._columns.new
        return noise * new


def _standard_deviation(tensor: MappedTensor) -> float:
    """The deviation over all elements, read a few rows at a time and summed in an order of its own on any machine."""
    rows, width = tensor.shape[0], math.prod(tensor.shape[1:])
    step = max(1, _STD_ELEMENTS // width)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, rows, step):
            yield tensor.rows(start, min(start + step, rows)).double().numpy()

    mean = math.fsum(float(block.sum()) for block in blocks()) / (rows * width)
    squares = math.fsum(float(((block - mean) ** 2).sum()) for block in blocks())
    return math.sqrt(squares / (rows * width - 1))


@dataclass(frozen=True)
class GrowthPlan:
    """How one model grows into another."""

    family: Family
    source: Sizes
    target: Sizes
    growth: GrowthConfig
    seed: int
    maps: Mapping[AxisKind, AxisMap]
    layers: list[LayerOrigin]

    def grow(self, state: Mapping[str, MappedTensor]) -> dict[str, GrownTensor]:
        """Return the target's state; nothing is computed until rows are read."""
        return {name: self._grown(name, spec, layer, state) for name, (spec, layer) in self.family.specs(self.target).items()}

    def _grown(self, name: str, spec: TensorSpec, layer: int | None, state: Mapping[str, MappedTensor]) -> GrownTensor:
        origin = None if layer is None else self.layers[layer]
        source = state[spec.name if origin is None else spec.name.format(layer=origin.source)]
        noisy = self.growth.noise > 0 and len(spec.axes) > 1
        return GrownTensor(
            source,
            tuple(self._axis(axis, spec) for axis in spec.axes),
            silent=spec.writes_residual and origin is not None and origin.silent,
            noise=Noise(self.growth.noise, ("growth", self.seed, name)) if noisy else None,
        )

    def _axis(self, axis: Axis, spec: TensorSpec) -> AxisPlan:
        size = self.source.of(axis.kind)
        axis_map = self.maps.get(axis.kind) or AxisMap(torch.arange(size), size)
        # A fused tensor is several side by side, each grown by itself.
        indices = torch.cat([axis_map.indices + part * size for part in range(len(axis.parts))])
        scale = None
        # bert2BERT eq. 7: what is summed over shrinks by 1/C. A tied output matrix cannot (it is the
        # embedding, eq. 9), so the norm before it does: gain and bias by 1/C.
        if axis_map.grows and (axis.role == "in" or (spec.final_norm and self.target.tied)):
            scale = 1.0 / axis_map.counts.double()
        return AxisPlan(indices, scale, axis_map.new.repeat(len(axis.parts)))


def plan_growth(family: Family, source: Sizes, target: Sizes, growth: GrowthConfig, seed: int) -> GrowthPlan:
    """Return the plan that grows `source` into `target`; raises UserError for sizes that the operator cannot reach."""
    return GrowthPlan(
        family=family,
        source=source,
        target=target,
        growth=growth,
        seed=seed,
        maps=build_maps(source, target, growth, seed),
        layers=layer_origins(source.num_hidden_layers, target.num_hidden_layers, growth.depth),
    )
