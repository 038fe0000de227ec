"""Adam's state of a grown tensor.

Where W' = a W[g, g] and n target elements share a source element, a gradient is G[g, g] / (a n). So exp_avg
becomes m / (a n), exp_avg_sq v / (a n)^2, and the step stays. The source's own dynamics go on at the rate a lr and at
eps / (a n); decay, which is lr wd, stays what it is.
"""

from collections.abc import Mapping

import torch

from pipeline.growth.grown import GrownTensor, MeasuredTensor
from pipeline.growth.sides import INIT, ZERO, Side
from pipeline.growth.state import Constant, Rows

Kept = Mapping[str, Rows | float]
"""What Adam keeps of one tensor, by its own key."""


def fresh_adam(shape: tuple[int, ...], rates: bool) -> Kept:
    """Return the state of a tensor that has never been stepped; `rates`: with factors of rate and eps of its own."""
    kept: dict[str, Rows | float] = {"exp_avg": Constant(shape, 0.0), "exp_avg_sq": Constant(shape, 0.0), "step": 0.0}
    return kept | {key: Constant(shape, 1.0) for key in ("lr_factor", "eps_factor") if rates}


def grown_adam(source: Kept, source_shape: tuple[int, ...], rows: Side, columns: Side | None, rates: bool) -> Kept:
    """Return the state of a tensor that is grown by these sides; whatever does not share its source's gradient is fresh.

    `rates` multiplies the factors of rate and eps so that the source's own dynamics go on.
    """
    sides = [side for side in (rows, columns) if side is not None]
    shape = tuple(len(side) for side in sides)

    def grown(key: str, scales: list[torch.Tensor | None], elsewhere: float) -> Rows:
        held = source.get(key, 1.0)
        tensor = MeasuredTensor(Constant(source_shape, held) if isinstance(held, float) else held)
        code = INIT if elsewhere else ZERO
        moved = [side.moments(scale, code) for side, scale in zip(sides, scales, strict=True)]
        init = Constant(shape, elsewhere)
        return GrownTensor((), tensor, tensor, moved[0], moved[1] if columns else None, dtype=torch.float32, init=init)

    unscaled: list[torch.Tensor | None] = [None] * len(sides)
    derivatives = [side.derivative for side in sides]
    squares = [None if derivative is None else derivative**2 for derivative in derivatives]
    kept: dict[str, Rows | float] = {
        "exp_avg": grown("exp_avg", derivatives, 0.0),
        "exp_avg_sq": grown("exp_avg_sq", squares, 0.0),
        # New elements count their steps from 0, so that their bias correction is fresh.
        "step": grown("step", unscaled, 0.0),
    }
    if isinstance(source["step"], float) and all(bool(side.keeps_moments.all()) for side in sides):
        kept["step"] = source["step"]
    if rates or "lr_factor" in source:
        kept["lr_factor"] = grown("lr_factor", [side.scale for side in sides] if rates else unscaled, 1.0)
        kept["eps_factor"] = grown("eps_factor", derivatives if rates else unscaled, 1.0)
    return kept
