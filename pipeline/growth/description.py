"""A growth plan in words, tensor by tensor."""

from collections.abc import Sequence

from pipeline.families.tensors import Axis
from pipeline.growth.grown_tensor import Noise
from pipeline.growth.growth_plan import GrowthPlan
from pipeline.growth.index_map import INIT, MEAN, MEAN_OF_SOME, SMALL, ZERO, AxisIndexMap

_NOISE = {
    "new": "noise of {share} standard deviations on what is copied again",
    "paired": "noise of {share} standard deviations on copies, +e and -e in pairs",
    "split": "copies' shares differ by up to {share} of the weight, in pairs",
}
_CODES = {
    ZERO: "zero",
    INIT: "at the model's initialization",
    MEAN: "at the mean",
    SMALL: "small values",
    MEAN_OF_SOME: "at the mean of their pieces",
}


def source_tensors(plan: GrowthPlan, name: str) -> list[str]:
    """Return the names of the source tensors that a target tensor is made of."""
    tensor = plan.tensors[name]
    if tensor.layer is None:
        return [plan.source_name(tensor)]
    if name in plan.zero_output_values or name not in plan.index_maps:
        return []
    if name in plan.identity_norms:
        return list(plan.layer_end(tensor))
    read = plan.source_names(tensor)
    if any(each.reads_next_layer for each in plan.index_maps[name]):
        read |= plan.source_names(tensor, following=True)
    return list(read)


def describe(plan: GrowthPlan, name: str) -> str:
    """Return what a target tensor is made of: its source tensors, and each axis's map and scale, and noise."""
    tensor, sources = plan.tensors[name], source_tensors(plan, name)
    if not sources:
        return _zero_output(plan, name) if name in plan.zero_output_values else "at the model's initialization"
    if name in plan.identity_norms:
        return f"{', '.join(sources)}; one value, such that the norm gives back what comes in on average"
    maps, sizes = plan.index_maps[name], plan.source_graph.sizes
    parts = [
        f"{_axis_name(axis)} {axis.size(sizes)} -> {len(each)}: stretched, each between its two old neighbours"
        if "positions" in axis.ports and plan.stretches(tensor)
        else _words(_axis_name(axis), each, axis.size(sizes))
        for axis, each in zip(tensor.axes, maps, strict=True)
    ]
    noise = plan.noise_of(tensor)
    if noise is not None and _reaches(noise, maps):
        parts.append(_NOISE[noise.kind].format(share=f"{noise.share:g}"))
    named = [plan.form.describe(source) for source in sources]
    if plan.origin(tensor).average:
        named = [f"{weight:g} of {source}" for source, weight in plan.source_names(tensor).items()]
    return f"{', '.join(named)}; {'; '.join(parts)}"


def _zero_output(plan: GrowthPlan, name: str) -> str:
    offset = plan.tensors[name].offset
    stored = f"{plan.zero_output_values[name]:g}, to which the norm adds {offset:g}" if offset else "zero"
    return f"{stored}: the layer writes nothing"


def _axis_name(axis: Axis) -> str:
    """The port of an axis, by which it is known."""
    return axis.parts[0].ports[0]


def _reaches(noise: Noise, maps: Sequence[AxisIndexMap]) -> bool:
    """Whether the noise falls on any element: on new rows and columns, or on inputs that are copied again."""
    if noise.kind == "new":
        return any(each.repeats is not None and bool(each.repeats.any()) for each in maps)
    return bool(maps[noise.pair_axis].pairs[1].any())


def _words(kind: str, each: AxisIndexMap, source_size: int) -> str:
    if each.is_identity:
        return f"{kind} as it is"
    copied = each.indices >= 0
    again = 0 if each.repeats is None else int((copied & each.repeats).sum())
    parts = [f"{int(copied.sum())} copied" + (f" ({again} again)" if again else "")]
    if each.next_layer is not None and each.reads_next_layer:
        parts.append(f"{int(each.next_layer.sum())} of them from the next layer")
    parts += [f"{int((each.indices == code).sum())} {words}" for code, words in _CODES.items() if code in each.codes]
    if each.scale is not None:
        low, high = float(each.scale.min()), float(each.scale.max())
        if (low, high) != (1.0, 1.0):
            parts.append(f"x {low:.4g}" + (f" to {high:.4g}" if high > low else ""))
    return f"{kind} {source_size} -> {len(each)}: {', '.join(parts)}"
