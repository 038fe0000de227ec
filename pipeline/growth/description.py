"""A growth plan in words, tensor by tensor."""

from collections.abc import Sequence

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
    MEAN: "set to the mean of the source's",
    SMALL: "small values",
    MEAN_OF_SOME: "set to the mean of their pieces",
}


def describe(plan: GrowthPlan, name: str) -> str:
    """Return what a target tensor is made of: its source tensors, and each axis's map and scale, and noise."""
    tensor = plan.tensors[name]
    if name in plan.zero_output_values:
        offset = tensor.offset
        stored = f"{plan.zero_output_values[name]:g}, to which the norm adds {offset:g}" if offset else "zero"
        return f"{stored}: the layer writes nothing"
    if name not in plan.index_maps:
        return "at the model's initialization"
    if name in plan.identity_norms:
        return f"{', '.join(plan.layer_end(tensor))}; one value, such that the norm gives back what comes in on average"
    maps, sizes = plan.index_maps[name], plan.source_graph.sizes
    parts = []
    for axis, each in zip(tensor.axes, maps, strict=True):
        port, stretched = axis.parts[0].ports[0], "positions" in axis.ports and plan.stretches(tensor)
        if each.is_identity and not stretched:
            parts.append(f"{port} unchanged")
        else:
            made = "stretched, each between its two old neighbours" if stretched else _words(each)
            parts.append(f"{port} {axis.size(sizes)} -> {len(each)}: {made}")
    noise = plan.noise_of(tensor)
    if noise is not None and _reaches(noise, maps):
        parts.append(_NOISE[noise.kind].format(share=f"{noise.share:g}"))
    sources = plan.source_names(tensor)
    if plan.origin(tensor).average:
        named = [f"{weight:g} of {source}" for source, weight in sources.items()]
    else:
        following = any(each.reads_next_layer for each in maps)
        sources |= plan.source_names(tensor, following=True) if following else {}
        named = [plan.form.describe(source) for source in sources]
    return f"{', '.join(named)}; {'; '.join(parts)}"


def _reaches(noise: Noise, maps: Sequence[AxisIndexMap]) -> bool:
    """Whether the noise falls on any element: on new rows and columns, or on inputs that are copied again."""
    if noise.kind == "new":
        return any(bool(each.filled("repeats").any()) for each in maps)
    return bool(maps[noise.pair_axis].pairs[1].any())


def _words(each: AxisIndexMap) -> str:
    again = int((each.copied & each.filled("repeats")).sum())
    parts = [f"{int(each.copied.sum())} copied" + (f" ({again} of them repeat others)" if again else "")]
    if each.reads_next_layer:
        parts.append(f"{int(each.filled('next_layer').sum())} of them from the next layer")
    parts += [f"{int((each.indices == code).sum())} {words}" for code, words in _CODES.items() if code in each.codes]
    low, high = float(each.factors.min()), float(each.factors.max())
    if (low, high) != (1.0, 1.0):
        parts.append(f"scaled by {low:.4g}" + (f" to {high:.4g}" if high > low else ""))
    return ", ".join(parts)
