"""Where an engine keeps parameters on this rank: fp32 masters, and the weights that the model computes with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from pipeline.deepspeed.zero_layout import PartitionSlice, group_slices, partition_bounds

_GROUPS = {
    DeepSpeedZeroOptimizer: ("round_robin_bit16_groups", "single_partition_of_fp32_groups"),
    # What stage 1 becomes where gradients are summed in fp32 beside bf16 weights.
    BF16_Optimizer: ("bf16_groups", "fp32_groups_flat_partition"),
}
"""ZeRO 1 and 2: where each group's parameters are, in the order in which they are laid out, and a rank's masters of them."""


@dataclass(frozen=True, slots=True)
class Master:
    """One tensor that the optimizer steps, and what of which parameters lies in it."""

    stepped: torch.Tensor
    slices: list[PartitionSlice]

    @property
    def values(self) -> torch.Tensor:
        """Its elements, flat."""
        return self.stepped.detach().view(-1)


def partitions_masters(engine: DeepSpeedEngine) -> bool:
    """Whether ZeRO-3 divides each parameter's master and weight alike; false of an engine without an optimizer."""
    return isinstance(engine.optimizer, DeepSpeedZeroOptimizer_Stage3)


def masters_of(engine: DeepSpeedEngine) -> list[Master]:
    """Return this rank's masters; those on a disk are empty, and an engine without an optimizer has none."""
    wrapper, named = engine.optimizer, list(engine.module.named_parameters())
    if isinstance(wrapper, DeepSpeedZeroOptimizer_Stage3):
        masters = [Master(stepped, []) for stepped in wrapper.fp32_partitioned_groups_flat]
        for name, parameter in named:
            number, place, _ = wrapper.grad_position[wrapper.get_param_id(parameter)]
            bounds = partition_bounds(parameter.ds_numel, engine.global_rank, engine.dp_world_size)
            masters[number].slices.append(PartitionSlice(name, *bounds, place))
        return masters
    names = {parameter: name for name, parameter in named}
    if isinstance(wrapper, tuple(_GROUPS)):
        groups, partitions = (getattr(wrapper, attribute) for attribute in _GROUPS[type(wrapper)])
        found = []
        for group, stepped in zip(groups, partitions, strict=True):
            alignment = 16 // group[0].element_size() if getattr(wrapper, "parameter_alignment", False) else 1
            numels = [(names[each], each.numel()) for each in group]
            found.append(Master(stepped, list(group_slices(numels, engine.global_rank, len(stepped), alignment))))
        return found
    if isinstance(wrapper, FP16_UnfusedOptimizer):
        groups = zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
        stepped_for = {low: master for lows, masters in groups for low, master in zip(lows, masters, strict=True)}
    elif isinstance(wrapper, torch.optim.Optimizer):
        # Stage 0 in fp32 keeps no masters beside the weights.
        stepped_for = {parameter: parameter for _, parameter in named}
    else:
        return []
    return [Master(stepped_for[each], [PartitionSlice(name, 0, each.numel(), 0)]) for name, each in named]


def optimizer_of(engine: DeepSpeedEngine) -> torch.optim.Optimizer:
    """Return the optimizer that an engine was made with."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def weights_of(engine: DeepSpeedEngine) -> dict[str, tuple[torch.Tensor, PartitionSlice]]:
    """Return by name what this rank holds of each weight between steps, flat, and which elements these are.

    A partition of ZeRO-3 may be longer, by padding.
    """
    found: dict[str, tuple[torch.Tensor, PartitionSlice]] = {}
    for name, parameter in engine.module.named_parameters():
        if engine.zero_optimization_partition_weights():
            bounds = partition_bounds(parameter.ds_numel, engine.global_rank, engine.dp_world_size)
            found[name] = parameter.ds_tensor, PartitionSlice(name, *bounds, 0)
        else:
            found[name] = parameter.detach().view(-1), PartitionSlice(name, 0, parameter.numel(), 0)
    return found


@contextmanager
def in_memory(engine: DeepSpeedEngine, number: int) -> Iterator[None]:
    """Hold a master of ZeRO-3, and what the optimizer keeps of it, in memory if they lie on a disk; then write them back."""
    wrapper = engine.optimizer
    swaps = wrapper._swappable_optimizer_subgroup(number)
    if swaps:
        wrapper._optimizer_states_and_gradient_swap_in(number)
    yield
    if swaps:
        wrapper._optimizer_states_and_gradient_swap_out(number)


def weights_were_filled(engine: DeepSpeedEngine) -> None:
    """Have ZeRO-3 cut its copies of weights within a node (hpZ) again."""
    engine.optimizer.invalidate_secondary_tensor()
