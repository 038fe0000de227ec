"""What an optimizer keeps of a grown tensor: the moments of Adam and Lion, and Muon's momentum.

Where W' = a W[g, g] and n target elements share a source element, a gradient is G[g, g] / (a n). So a mean of gradients
(exp_avg, momentum_buffer) becomes m / (a n), exp_avg_sq v / (a n)^2, and the step stays. Under Adam the source's own
dynamics go on at the rate a lr and at eps / (a n); decay, which is lr wd, stays what it is. docs/explanation/optimizer-state.md
says what holds under Lion and Muon.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from pipeline.common.errors import UserError
from pipeline.families.tensors import Tensor
from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.growth.grown_tensor import GrownTensor, MeasuredTensor
from pipeline.growth.index_map import INIT, ZERO, AxisIndexMap
from pipeline.growth.row_views import Replaced
from pipeline.growth.state import Constant, OptimizerState, Rows, default_value
from pipeline.recipe.growth import AUTO

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

_OTHERS = (_AGE, "lr_factor", "eps_factor", ADDED_STEPS_LEFT)
"""Keys that are no moments."""


def steps_as_matrix(tensor: Tensor) -> bool:
    """Whether Muon steps a tensor: the matrices of layers; embeddings, heads, norms and biases go by AdamW."""
    return tensor.group == "layer" and len(tensor.axes) == 2


def muon_scale(outputs: int, inputs: int, *, spectral: bool = False) -> float:
    """Return what Muon multiplies an orthogonal step of a matrix by: sqrt(outputs / inputs), at least 1 unless `spectral`."""
    return math.sqrt(outputs / inputs if spectral else max(1.0, outputs / inputs))


def stepped(state: OptimizerState) -> OptimizerState:
    """Return what is kept of the tensors of which any moments are: those that were stepped."""
    return {name: kept for name, kept in state.items() if set(kept).difference(_OTHERS)}


def rule_of(kept: Kept) -> str:
    """Return the rule by which a tensor was stepped, adamw, lion or muon, by what is kept of it; "" where it is another."""
    found = set(kept).difference(_OTHERS)
    if found >= set(_MOMENTS["adamw"]):
        return "adamw" if _AGE in kept else ""
    # Other optimizers keep exp_avg, or a momentum_buffer, beside other things.
    return next((name for name, keys in _MOMENTS.items() if found == set(keys)), "")


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
    copied: Mapping[str, tuple[AxisIndexMap, ...]] = field(default_factory=dict)
    """The same of elements that are copied as they are, beside those of `maps`; empty where there are none."""
    as_they_are: tuple[torch.Tensor, ...] = ()
    """Which indices of each axis make an element one of these."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each of them."""
        return tuple(len(each) for each in self.maps[_AGE])


def moment_maps(
    maps: Sequence[AxisIndexMap], rates: bool, new: str = AUTO, *, shares: bool = True, noisy: bool = False
) -> MomentMaps:
    """Return the maps of what is kept of a tensor that is grown by these maps.

    `new` is the recipe's `new_moments`: what copies get that do not share their source's gradient. These are all where it does
    not `share` one, as in a layer that is there once more, and where copies are `noisy` all but the source's own.
    `rates` multiplies the factors of rate and eps so that the source's own dynamics go on.
    """
    sharing = [each.keeps_moments if shares else torch.zeros(len(each), dtype=torch.bool) for each in maps]
    if noisy and new != AUTO:
        sharing = [held & ~each.new for held, each in zip(sharing, maps, strict=True)]
    copied = [each.copied for each in maps]
    plain: list[torch.Tensor | None] = [None] * len(maps)
    derivatives = [each.derivative for each in maps]
    squares = [None if derivative is None else derivative**2 for derivative in derivatives]

    def moved(which: list[torch.Tensor], *, scaled: bool) -> dict[str, tuple[AxisIndexMap, ...]]:
        def of(scales: list[torch.Tensor | None], elsewhere: int = ZERO) -> tuple[AxisIndexMap, ...]:
            taken = scales if scaled else plain
            return tuple(each.of(some, scale, elsewhere) for each, some, scale in zip(maps, which, taken, strict=True))

        return {
            "exp_avg": of(derivatives),
            "exp_avg_sq": of(squares),
            "momentum_buffer": of(derivatives),
            # What starts fresh counts its steps from 0, so that its bias correction is fresh.
            _AGE: of(plain),
            "lr_factor": of([each.scale for each in maps] if rates else plain, INIT),
            "eps_factor": of(derivatives if rates else plain, INIT),
        }

    taken = copied if new in ("copied", "scaled") else sharing
    keeps_steps = all(bool(each.all()) for each in taken)
    if new != "copied" or all(torch.equal(one, other) for one, other in zip(sharing, copied, strict=True)):
        return MomentMaps(moved(taken, scaled=True), keeps_steps)
    others = moved(copied, scaled=False)
    if not all(bool(each.any()) for each in sharing):
        return MomentMaps(others, keeps_steps)
    return MomentMaps(moved(sharing, scaled=True), keeps_steps, others, tuple(~each for each in sharing))


def grown_kept(source: Kept, following: Kept, source_shape: tuple[int, ...], moved: MomentMaps, rates: bool) -> Kept:
    """Return what is kept of a tensor that is grown from one of this shape, of which the optimizer kept `source`.

    `following` is what it kept of the one that rows of the next layer are read from. One of the two may be empty: of a tensor
    that was never stepped.
    """

    def held(kept: Kept, key: str) -> MeasuredTensor:
        value = kept.get(key, default_value(key))
        return MeasuredTensor(Constant(source_shape, value) if isinstance(value, float) else value)

    def grown(key: str) -> Rows:
        sources, init = (held(source, key), held(following, key)), Constant(moved.shape, default_value(key))

        def by(maps: Mapping[str, tuple[AxisIndexMap, ...]]) -> Rows:
            return GrownTensor((), *sources, maps[key], dtype=torch.float32, init=init)

        found = by(moved.maps)
        for axis, where in enumerate(moved.as_they_are):
            found = Replaced(found, by(moved.copied), where, axis)
        return found

    known = source or following
    kept: dict[str, Rows | float] = {key: grown(key) for key in _MOMENTS[rule_of(known)]}
    if _AGE in known:
        age, other = source.get(_AGE, 0.0), following.get(_AGE, 0.0)
        whole = moved.keeps_steps and isinstance(age, float) and age == other
        kept[_AGE] = age if whole else grown(_AGE)
    if rates or "lr_factor" in {*source, *following}:
        kept |= {key: grown(key) for key in ("lr_factor", "eps_factor")}
    return kept
