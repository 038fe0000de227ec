"""A growth plan in words, tensor by tensor."""

from pipeline.families import AxisKind, TensorSpec
from pipeline.growth.grown import Noise
from pipeline.growth.plan import GrowthPlan
from pipeline.growth.sides import INIT, MEAN, SMALL, ZERO, Side

_NOISE = {
    "new": "noise of {share} standard deviations on what is copied again",
    "paired": "twins told apart by noise of {share} standard deviations, +e and -e",
    "split": "twins told apart by shares that differ by up to {share} of the weight",
}
_CODES = {ZERO: "zero", INIT: "at the model's initialization", MEAN: "at the mean", SMALL: "small values"}


def source_tensors(plan: GrowthPlan, name: str) -> list[str]:
    """Return the names of the source tensors that a target tensor is made of."""
    spec, layer = plan.specs[name]
    if layer is None:
        return [spec.name]
    origin = plan.layers[layer]
    if origin.source is None or (origin.silent and spec.writes_residual):
        return []
    if plan.passes_on(spec, layer):
        return [end.name.format(layer=origin.source) for end in plan.layer_ends]
    read = {origin.source}
    if any(side.reads_next_layer for side in _sides(plan, spec)):
        read.add(min(origin.source + 1, plan.source.num_hidden_layers - 1))
    return [spec.name.format(layer=number) for number in sorted(read)]


def describe(plan: GrowthPlan, name: str) -> str:
    """Return what a target tensor is made of: its source tensors, and each axis's map and scale, and noise."""
    spec, layer = plan.specs[name]
    sources = source_tensors(plan, name)
    if not sources:
        silent = layer is not None and plan.layers[layer].silent
        return "zero: the layer writes nothing" if silent else "at the model's initialization"
    if plan.passes_on(spec, layer):
        return f"{', '.join(sources)}; one value, such that the norm gives back what comes in on average"
    parts = [
        f"{axis.kind.value} {plan.source.of(axis.kind)} -> {len(side)}: stretched, each between its two old neighbours"
        if axis.kind is AxisKind.POSITIONS and plan.stretches(spec)
        else _words(axis.kind.value, side, plan.source.of(axis.kind) * len(axis.parts))
        for axis, side in zip(spec.axes, _sides(plan, spec), strict=True)
    ]
    noise = plan.noise_of(spec)
    if noise is not None and _reaches(noise, _sides(plan, spec)):
        parts.append(_NOISE[noise.kind].format(share=f"{noise.share:g}"))
    return f"{', '.join(sources)}; {'; '.join(parts)}"


def _reaches(noise: Noise, sides: list[Side]) -> bool:
    """Whether the noise falls on any element: on new rows and columns, or on inputs that have a twin."""
    if noise.kind == "new":
        return any(side.repeats is not None and bool(side.repeats.any()) for side in sides)
    return bool(sides[noise.twin_axis].twins[1].any())


def _sides(plan: GrowthPlan, spec: TensorSpec) -> list[Side]:
    return [side for side in plan.tensor_sides(spec) if side is not None]


def _words(kind: str, side: Side, source_size: int) -> str:
    if side.is_identity:
        return f"{kind} as it is"
    copied = side.indices >= 0
    again = 0 if side.repeats is None else int((copied & side.repeats).sum())
    parts = [f"{int(copied.sum())} copied" + (f" ({again} again)" if again else "")]
    if side.reads_next_layer:
        parts.append(f"{int(side.next_layer.sum())} of them from the next layer")
    parts += [f"{int((side.indices == code).sum())} {words}" for code, words in _CODES.items() if code in side.codes]
    if side.scale is not None:
        low, high = float(side.scale.min()), float(side.scale.max())
        if (low, high) != (1.0, 1.0):
            parts.append(f"x {low:.4g}" + (f" to {high:.4g}" if high > low else ""))
    return f"{kind} {source_size} -> {len(side)}: {', '.join(parts)}"
