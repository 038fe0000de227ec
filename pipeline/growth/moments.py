"""What an optimizer keeps of a grown tensor: the moments of Adam and Lion, and Muon's momentum.

Where W' = a W[g, g] and n target elements share a source element, a gradient is G[g, g] / (a n). So a mean of gradients
(exp_avg, momentum_buffer) becomes m / (a n), exp_avg_sq v / (a n)^2, and the step stays. Under Adam the source's own
dynamics go on at the rate a lr and at eps / (a n); decay, which is lr wd, stays what it is. docs/growth.md says what holds
under Lion and Muon.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from data_prep.errors import UserError
from pipeline.families.tensors import Tensor
from pipeline.growth.added import LEFT
from pipeline.growth.grown import GrownTensor, MeasuredTensor
from pipeline.growth.index_map import INIT, ZERO, AxisIndexMap
from pipeline.growth.state import Constant, OptimizerState, Rows

Kept = Mapping[str, Rows | float]
"""What an optimizer keeps of one tensor, by its own key."""

_MOMENTS: Mapping[str, tuple[str, ...]] = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "lion": ("exp_avg",),
    "muon": ("momentum_buffer",),
}
"""By the rule of a tensor's steps: the keys of its moments."""

_AGE = "step"
"""The key of how many steps an element has seen. Adam needs it; the others may keep one."""

_OTHERS = (_AGE, "lr_factor", "eps_factor", LEFT)
"""Keys that are no moments."""


def steps_as_matrix(tensor: Tensor) -> bool:
    """Whether Muon steps a tensor: the matrices of layers; embeddings, heads, norms and biases go by AdamW."""
    return tensor.block == "layer" and len(tensor.axes) == 2


def stepped(state: OptimizerState) -> OptimizerState:
    """Return what is kept of the tensors of which any moments are: those that were stepped."""
    return {name: kept for name, kept in state.items() if set(kept).difference(_OTHERS)}


def rule_of(kept: Kept) -> str | None:
    """Return the rule by which a tensor was stepped, adamw, lion or muon, by what is kept of it; None where it is another."""
    found = set(kept).difference(_OTHERS)
    if found >= set(_MOMENTS["adamw"]):
        return "adamw" if _AGE in kept else None
    # Other optimizers keep exp_avg, or a momentum_buffer, beside other things.
    return next((name for name, keys in _MOMENTS.items() if found == set(keys)), None)


def optimizers_of(state: OptimizerState, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return which optimizers, of adamw, lion and muon, keep this of tensors that were stepped; of a part of a model two may.

    Raises UserError naming a tensor where none does.
    """
    misfits: dict[str, list[str]] = {}
    for optimizer in _MOMENTS:
        for name, kept in state.items():
            rule = "adamw" if optimizer == "muon" and not steps_as_matrix(tensors[name]) else optimizer
            if rule_of(kept) != rule:
                misfits.setdefault(optimizer, []).append(name)
    found = [optimizer for optimizer in _MOMENTS if optimizer not in misfits]
    if not found:
        (name, *_) = min(misfits.values(), key=len)
        raise UserError(
            f"growth.optimizer_state: grow needs the state of AdamW, Lion or Muon, and of tensor {name!r} the source's "
            f"optimizer kept {', '.join(sorted(state[name]))}; choose fresh"
        )
    return found


def fresh_adam(shape: tuple[int, ...], rates: bool) -> Kept:
    """Return the state of a tensor that has never been stepped; `rates`: with factors of rate and eps of its own."""
    kept: dict[str, Rows | float] = {"exp_avg": Constant(shape, 0.0), "exp_avg_sq": Constant(shape, 0.0), _AGE: 0.0}
    return kept | {key: Constant(shape, 1.0) for key in ("lr_factor", "eps_factor") if rates}


@dataclass(frozen=True, slots=True)
class MomentMaps:
    """How the tensors that are kept of one tensor are made of the source's: by key, the maps of their storage axes."""

    maps: Mapping[str, tuple[AxisIndexMap, ...]]
    keeps_steps: bool
    """Whether every element has the age of its source."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each of them."""
        return tuple(len(each) for each in self.maps[_AGE])


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
            _AGE: moved(unscaled),
            "lr_factor": moved([each.scale for each in maps] if rates else unscaled, INIT),
            "eps_factor": moved(derivatives if rates else unscaled, INIT),
        },
        all(bool(each.keeps_moments.all()) for each in maps),
    )


def grown_kept(source: Kept, source_shape: tuple[int, ...], moved: MomentMaps, rates: bool) -> Kept:
    """Return what is kept of a tensor that is grown from one of this shape, of which the optimizer kept `source`."""

    def grown(key: str, elsewhere: float) -> Rows:
        held = source.get(key, 1.0)
        tensor = MeasuredTensor(Constant(source_shape, held) if isinstance(held, float) else held)
        init = Constant(moved.shape, elsewhere)
        return GrownTensor((), tensor, tensor, moved.maps[key], dtype=torch.float32, init=init)

    kept: dict[str, Rows | float] = {key: grown(key, 0.0) for key in _MOMENTS[rule_of(source)]}
    if _AGE in source:
        whole = isinstance(source[_AGE], float) and moved.keeps_steps
        kept[_AGE] = source[_AGE] if whole else grown(_AGE, 0.0)
    if rates or "lr_factor" in source:
        kept |= {key: grown(key, 1.0) for key in ("lr_factor", "eps_factor")}
    return kept
