"""What the target's optimizer begins with: the source's state, grown by the plan's maps, and which elements are new."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.common.errors import UserError
from pipeline.families.tensors import Tensor
from pipeline.growth.added_steps import ADDED_STEPS_LEFT, added_steps_left
from pipeline.growth.growth_plan import GrowthPlan
from pipeline.growth.index_map import AxisIndexMap
from pipeline.growth.moments import Kept, MomentMaps, fresh_adam, grown_kept, moment_maps, optimizers_of, stepped
from pipeline.growth.state import OptimizerState, Rows
from pipeline.recipe.growth import AUTO


def begin_optimizer(plan: GrowthPlan, optimizer: OptimizerState | None) -> OptimizerState | None:
    """Return what the target's optimizer begins with, given the source's, and which elements are new; None for nothing.

    Raises UserError as `grow_optimizer` does.
    """
    grown = grow_optimizer(plan, optimizer) if plan.growth.optimizer_state == "grow" else {}
    left = _added_steps_left(plan, optimizer or {})
    return {name: {**grown.get(name, {}), **left.get(name, {})} for name in grown or left} or None


def grow_optimizer(plan: GrowthPlan, optimizer: OptimizerState | None) -> OptimizerState:
    """Return the optimizer's state of the target (`moments.py` has the rule).

    Raises UserError where the source has none, or one of another optimizer than that which trains the target.
    """
    adamw = _kept_by(plan, optimizer) == "adamw"
    growth = _KeptGrowth(plan, plan.form.optimizer(stepped(optimizer or {})))
    return {name: growth.grown(tensor, adamw=adamw) for name, tensor in plan.tensors.items() if not tensor.buffer}


def going_on_from(plan: GrowthPlan, optimizer: OptimizerState | None) -> GrowthPlan:
    """Return the plan of a target that the source's optimizer steps, of which this is kept; raises as `grow_optimizer`."""
    return replace(plan, optimizer=_kept_by(plan, optimizer))


def takes_moments(plan: GrowthPlan) -> bool:
    """Whether any element has the moments of one whose gradient it does not share."""
    if plan.growth.new_moments not in ("copied", "scaled"):
        return False
    repeated = any(origin.added and origin.source is not None and not origin.average for origin in plan.layers)
    maps = {id(each): each for maps in plan.index_maps.values() for each in maps}
    # Copies with noise have what others have, unless they have their source's as they are.
    unlike = plan.growth.noise != 0 and plan.growth.new_moments == "copied"
    others = (each.copied & (~each.keeps_moments | each.new if unlike else ~each.keeps_moments) for each in maps.values())
    return repeated or any(bool(each.any()) for each in others)


def _kept_by(plan: GrowthPlan, optimizer: OptimizerState | None) -> str:
    """Return which optimizer kept this of the source; raises UserError where none that the target goes on from."""
    optimizer = stepped(optimizer or {})
    if not optimizer:
        raise UserError(
            "growth.optimizer_state: grow needs the source's optimizer state, which neither a Hugging Face directory nor a "
            "checkpoint grown without it holds; name a run directory, a checkpoint of one or a DeepSpeed checkpoint "
            "(of transformers' Trainer: output_dir/checkpoint-N), or choose fresh"
        )
    (kept_by, *_) = found = optimizers_of(optimizer, plan.stored_graph.tensors())
    if plan.optimizer not in (None, *found):
        raise UserError(
            f"optimizer.name: {plan.optimizer} does not go on from what the source's optimizer kept, which is {kept_by}; "
            f"name {kept_by}, or growth.optimizer_state: fresh"
        )
    if plan.growth.element_rates and kept_by != "adamw":
        raise UserError(
            f"growth.element_rates: only adamw has rates of elements, and the source's is {kept_by}; leave the key out"
        )
    return plan.optimizer or kept_by


def _added_steps_left(plan: GrowthPlan, optimizer: OptimizerState) -> OptimizerState:
    """Return for how many steps more elements have a rate of their own; of tensors that have none, nothing."""
    steps = float(plan.growth.added.steps)
    if not steps:
        return {}
    kept = {name: entry.get(ADDED_STEPS_LEFT, 0.0) for name, entry in optimizer.items()}
    before = plan.form.added_steps_left(kept, steps)
    made: dict[tuple[int, ...], tuple[AxisIndexMap, ...]] = {}
    found: dict[str, Kept] = {}
    for name, tensor in plan.tensors.items():
        if tensor.buffer:
            continue
        left: Rows | float = steps
        if not _is_new(plan, tensor):
            shape = tensor.shape(plan.source_graph.sizes)
            left = added_steps_left(before.get(plan.source_name(tensor), 0.0), shape, plan.index_maps[name], steps, made)
        found |= {} if left == 0.0 else {name: {ADDED_STEPS_LEFT: left}}
    return found


def _is_new(plan: GrowthPlan, tensor: Tensor) -> bool:
    """Whether no element of a tensor is one of the source's own."""
    own_head = plan.unties and tensor.name in plan.family.head_alias
    new = plan.origin(tensor).added or own_head or plan.is_new_expert(tensor)
    return new or tensor.name not in plan.index_maps or plan.stretches(tensor)


@dataclass(frozen=True)
class _KeptGrowth:
    """What is kept of tensors, grown by a plan."""

    plan: GrowthPlan
    optimizer: OptimizerState
    """What the optimizer keeps of what grows."""
    made: dict[tuple[object, ...], MomentMaps] = field(default_factory=dict)
    """Maps by those of their tensors: layers are made alike."""

    def grown(self, tensor: Tensor, *, adamw: bool) -> Kept:
        """Return what is kept of a target's tensor."""
        plan, rates = self.plan, self.plan.growth.element_rates
        source, following = self._kept_of_sources(tensor)
        if not source and not following:  # new, or frozen throughout
            # Beside Muon, which keeps other things of matrices, and Lion, which has no bias correction, nothing is said of it.
            return fresh_adam(tensor.shape(plan.graph.sizes), rates) if adamw else {}
        return grown_kept(source, following, tensor.shape(plan.source_graph.sizes), self._moment_maps(tensor), rates)

    def _kept_of_sources(self, tensor: Tensor) -> tuple[Kept, Kept]:
        """Return what is kept of the source's tensor that one is made of, and of the one that rows of the next layer are of.

        Nothing is of one that starts fresh: it is drawn, has one value, or is made of several.
        """
        plan = self.plan
        made = tensor.name in plan.index_maps and not plan.stretches(tensor)
        origin = plan.origin(tensor)
        if origin.added:
            takes = plan.growth.new_moments in ("copied", "scaled") and not origin.average
            made = made and takes and tensor.name not in plan.zero_output_values and tensor.name not in plan.identity_norms
        if not made:
            return {}, {}
        source: Mapping[str, Rows | float] = self.optimizer.get(plan.source_name(tensor), {})
        if not any(each.reads_next_layer for each in plan.index_maps[tensor.name]):
            return source, source
        (name,) = plan.source_names(tensor, following=True)
        return source, self.optimizer.get(name, {})

    def _moment_maps(self, tensor: Tensor) -> MomentMaps:
        """The maps of what is kept of a tensor, by its own maps, so that they are worked out once for all layers."""
        growth, maps = self.plan.growth, self.plan.index_maps[tensor.name]
        noisy = growth.noise != 0
        noisy_copy = noisy and self.plan.is_new_expert(tensor) and growth.new_moments != AUTO
        shares = not (self.plan.origin(tensor).added or noisy_copy)
        key = (*map(id, maps), shares)
        if key not in self.made:
            self.made[key] = moment_maps(maps, growth.element_rates, growth.new_moments, shares=shares, noisy=noisy)
        return self.made[key]
