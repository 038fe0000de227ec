"""Adam's state of a grown tensor, and Muon's momentum.

Where W' = a W[g, g] and n target elements share a source element, a gradient is G[g, g] / (a n). So exp_avg
becomes m / (a n), exp_avg_sq v / (a n)^2, and the step stays; momentum_buffer is a mean of gradients as exp_avg is. The
source's own dynamics go on at the rate a lr and at eps / (a n); decay, which is lr wd, stays what it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.growth.grown import GrownTensor, MeasuredTensor
from pipeline.growth.index_map import INIT, ZERO, AxisIndexMap
from pipeline.growth.state import Constant, Rows

Kept = Mapping[str, Rows | float]
"""What Adam, or Muon, keeps of one tensor, by its own key."""

ADAM, MUON = ("exp_avg", "exp_avg_sq", "step"), ("momentum_buffer",)
"""The keys of what they keep of each tensor, at least."""


def fresh_adam(shape: tuple[int, ...], rates: bool) -> Kept:
    """Return the state of a tensor that has never been stepped; `rates`: with factors of rate and eps of its own."""
    kept: dict[str, Rows | float] = {"exp_avg": Constant(shape, 0.0), "exp_avg_sq": Constant(shape, 0.0), "step": 0.0}
    return kept | {key: Constant(shape, 1.0) for key in ("lr_factor", "eps_factor") if rates}


@dataclass(frozen=True, slots=True)
class MomentMaps:
    """How the tensors that Adam keeps of one tensor are made of the source's: by key, the maps of their storage axes."""

    maps: Mapping[str, tuple[AxisIndexMap, ...]]
    keeps_steps: bool
    """Whether every element has the age of its source."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each of them."""
        return tuple(len(each) for each in self.maps["step"])


def moment_maps(maps: Sequence[AxisIndexMap], rates: bool) -> MomentMaps:
    """Return the maps of what is kept of a tensor that is grown by these maps.

    Whatever does not share its source's gradient is fresh. `rates` multiplies the factors of rate and eps so that the
    source's own dynamics go on.
    """

    def moved(scales: list[torch.Tensor | None], elsewhere: int = ZERO) -> tuple[AxisIndexMap, ...]:
        return tuple(each.moments(scale, elsewhere) for each, scale in zip(maps, scales, strict=True))

    unscaled: list[torch.Tensor | None] = [None] * len(maps)
    derivatives = [each.derivative for each in maps]
    squares = [None if derivative is None else derivative**2 for derivative in derivatives]
    return MomentMaps(
        {
            "exp_avg": moved(derivatives),
            "exp_avg_sq": moved(squares),
            "momentum_buffer": moved(derivatives),
            # New elements count their steps from 0, so that their bias correction is fresh.
            "step": moved(unscaled),
            "lr_factor": moved([each.scale for each in maps] if rates else unscaled, INIT),
            "eps_factor": moved(derivatives if rates else unscaled, INIT),
        },
        all(bool(each.keeps_moments.all()) for each in maps),
    )


def grown_kept(source: Kept, source_shape: tuple[int, ...], moved: MomentMaps, rates: bool) -> Kept:
    """Return the state of a tensor that is grown from one of this shape, of which Adam, or Muon, kept `source`."""

    def grown(key: str, elsewhere: float) -> Rows:
        held = source.get(key, 1.0)
        tensor = MeasuredTensor(Constant(source_shape, held) if isinstance(held, float) else held)
        init = Constant(moved.shape, elsewhere)
        return GrownTensor((), tensor, tensor, moved.maps[key], dtype=torch.float32, init=init)

    kept: dict[str, Rows | float] = {key: grown(key, 0.0) for key in (ADAM if source.keys() >= set(ADAM) else MUON)}
    if isinstance(source.get("step"), float) and moved.keeps_steps:
        kept["step"] = source["step"]
    if "step" in kept and (rates or "lr_factor" in source):
        kept |= {key: grown(key, 1.0) for key in ("lr_factor", "eps_factor")}
    return kept
