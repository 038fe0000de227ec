"""Whether the grown optimizer state, and the steps that it leads to, are those that the source's own gradients would make."""

import itertools
import math
from collections.abc import Sequence

import torch

from pipeline.families.tensors import RESIDUAL, Tensor, numel
from pipeline.growth.growth_plan import GrowthPlan
from pipeline.growth.index_map import INIT, AxisIndexMap
from pipeline.growth.moments import muon_scale, steps_as_matrix
from pipeline.growth.optimizer_growth import takes_moments
from pipeline.growth.reasons import predict


def predict_moments(plan: GrowthPlan) -> list[str]:
    """Return why grown moments are not those that the source's own gradients would have come to; none where they are.

    What starts without moments is no departure.
    """
    causes = [reason.cause for reason in predict(plan)]
    free = any(
        INIT in each.codes
        for name, maps in plan.index_maps.items()
        for each, axis, role in zip(maps, plan.tensors[name].axes, plan.tensors[name].roles, strict=True)
        if role == "in" and RESIDUAL in axis.ports
    )
    if plan.maps[RESIDUAL].grows and plan.graph.stream_norm == "layer" and free:
        causes.append("readers of new channels enter the mean that LayerNorm takes from its gradient")
    if plan.growth.symmetry != "none":
        causes.append("copies whose symmetry noise breaks have different gradients")
    if plan.form.gate_shares:
        causes.append(f"gates differ from token to token, and {plan.form.gate_shares}")
    if takes_moments(plan):
        option = f"new_moments: {plan.growth.new_moments}"
        causes.append(f"copies that do not share their source's gradient have its moments ({option})")
    return causes


def predict_steps(plan: GrowthPlan) -> list[str]:
    """Return why a step of what the target has of its source would not be the source's step, the gradients being its own.

    Elements of AdamW and Lion move by their rate whatever the scale of their gradient, so that a weight a times the source's
    goes on as that at a times the rate. Muon: a gradient R G S^T of a matrix whose outputs and inputs are there c and d times
    has the singular values of G, times sqrt(c d), and its step is R O S^T / sqrt(c d), where O is that of G.
    """
    found: dict[str, list[str]] = {}
    kinds: dict[tuple[object, ...], str | None] = {}
    for name, maps in plan.index_maps.items():
        tensor = plan.tensors[name]
        if tensor.buffer or plan.origin(tensor).added:
            continue
        # Layers, and experts, are made alike.
        alike = (*map(id, maps), tensor.axes, tensor.roles, tensor.group)
        if alike not in kinds:
            kinds[alike] = _step(plan, tensor, maps)
        if (kind := kinds[alike]) is not None:
            found.setdefault(kind, []).append(name)
    causes = [_STEPS[kind].format(_named(names)) for kind, names in found.items()]
    if plan.optimizer == "muon" and plan.form.slices_per_network > 1:
        causes.append(
            "Muon orthogonalizes each slice of one network separately, which gives other steps than the whole network's"
        )
    return causes


_STEPS = {
    "other rows": "Muon orthogonalizes the new rows and columns of {} together with the source's, whose steps are then others",
    "uneven": "the source's rows, or columns, are not equally often in {}, and Muon finds other singular vectors there",
    "longer": "steps of {} are longer or shorter than the source's, unless optimizer.width_rates is spectral",
    "scaled": (
        "weights of {} were multiplied by a factor; their steps match the source's only if their learning rate is multiplied "
        "too (growth.element_rates of adamw, or optimizer.width_rates)"
    ),
    # No rate by width is of what sums no inputs.
    "scaled vectors": (
        "values of {} were multiplied by a factor; their steps match the source's only if their learning rate is multiplied "
        "too (growth.element_rates of adamw)"
    ),
}


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _step(plan: GrowthPlan, tensor: Tensor, maps: Sequence[AxisIndexMap]) -> str | None:
    """Return how the step of a tensor departs from the source's, a key of `_STEPS`; None where it is that one."""
    if plan.optimizer == "muon" and steps_as_matrix(tensor):
        return _step_of_matrix(plan, tensor, maps)
    scaled = any(bool((each.factors[each.keeps_moments] != 1).any()) for each in maps)
    if not scaled or plan.growth.element_rates:
        return None
    return "scaled" if "in" in tensor.roles else "scaled vectors"


def _step_of_matrix(plan: GrowthPlan, tensor: Tensor, maps: Sequence[AxisIndexMap]) -> str | None:
    """Return the same of a matrix that Muon steps."""
    if not all(bool(each.keeps_moments.all()) for each in maps):
        return "other rows"
    counts = [torch.bincount(each.indices) for each in maps]
    if not all(bool((each == each[0]).all()) for each in (*counts, *(each.factors for each in maps))):
        return "uneven"
    # R G S^T / (a c d) is orthogonalized to R O S^T / sqrt(c d), and a R O S^T is what the source's step comes to.
    factor = math.prod(float(each.factors[0]) for each in maps) * math.sqrt(math.prod(int(each[0]) for each in counts))
    out = tensor.roles.index("out")
    for numbers in itertools.product(*(range(len(axis.parts)) for axis in tensor.axes)):
        ports = [axis.parts[number].ports for axis, number in zip(tensor.axes, numbers, strict=True)]
        before, after = ([numel(each, graph.sizes) for each in ports] for graph in (plan.source_graph, plan.graph))
        scales = (muon_scale(sides[out], sides[1 - out]) for sides in (before, after))
        if not math.isclose(factor * next(scales), next(scales), rel_tol=1e-9):
            return "longer"
    return None
