"""Masters and optimizer state that lie on a disk (ZeRO-3, offload_optimizer to nvme)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

from pipeline.common.errors import UserError

_ALIGNMENT = 512
"""Bytes to which direct reads are aligned."""


def spare_frozen_masters(engine: DeepSpeedEngine) -> None:
    """Spare masters on a disk that got no gradient, as those of frozen groups, the scaling of one, on which DeepSpeed fails.

    Raises UserError where a gradient would be read to an unaligned place: DeepSpeed loses some of it without an error.
    """
    wrapper = engine.optimizer
    if getattr(wrapper, "swap_optimizer", False):
        for name, parameter in engine.module.named_parameters():
            number, place, numel = wrapper.grad_position[wrapper.get_param_id(parameter)]
            width = wrapper.fp32_partitioned_groups_flat[number].element_size()
            swapped = wrapper._swappable_optimizer_subgroup(number)
            swapped = swapped and wrapper.optimizer_swapper.is_swappable_tensor(numel=numel)
            if swapped and place * width % _ALIGNMENT:
                raise UserError(
                    f"zero_optimization.offload_optimizer.device: nvme does not fit {name} over {engine.dp_world_size} ranks: "
                    f"what is before it does not fill blocks of {_ALIGNMENT} bytes; choose another number of ranks, or cpu"
                )
        scale = wrapper.unscale_and_clip_grads

        def scale_what_there_is(number: int, norm: Any) -> None:
            if wrapper.fp32_partitioned_groups_flat[number].grad is not None:
                scale(number, norm)

        wrapper.unscale_and_clip_grads = scale_what_there_is


@contextmanager
def saved_from_disk(engine: DeepSpeedEngine) -> Iterator[None]:
    """Let the engine save masters and optimizer state that lie on a disk as it saves those in memory, mapped from there.

    DeepSpeed alone copies its swap files, under names by which nothing but the same model in the same process knows them.
    """
    wrapper = engine.optimizer
    if not getattr(wrapper, "swap_optimizer", False):
        yield
        return
    plain = wrapper.state_dict

    def state_dict() -> dict:
        saved = plain()
        # A list of its own: that is the optimizer's.
        saved["fp32_flat_groups"] = list(saved["fp32_flat_groups"])
        for number, master in enumerate(wrapper.fp32_partitioned_groups_flat):
            if wrapper._swappable_optimizer_subgroup(number):
                mapped = _mapped(wrapper, number)
                saved["fp32_flat_groups"][number] = mapped[id(master)]
                kept = wrapper.optimizer.state.get(master, {})
                of_master = {key: mapped.get(id(value), value) for key, value in kept.items()}
                saved["optimizer_state_dict"]["state"] |= {number: of_master} if of_master else {}
        return saved

    wrapper.state_dict, engine.zero_nvme_offload_optimizer = state_dict, lambda: False
    try:
        yield
    finally:
        del wrapper.state_dict, engine.zero_nvme_offload_optimizer


def _mapped(wrapper: DeepSpeedZeroOptimizer_Stage3, number: int) -> dict[int, torch.Tensor]:
    """Return a master and what is kept of it, mapped from the swap files, by the tensors that stand for them."""
    master = wrapper.fp32_partitioned_groups_flat[number]
    numel = wrapper.fp16_partitioned_groups_flat_numel[number]
    return {
        id(context.compute_tensor): torch.from_file(context.swap_path, size=numel, dtype=master.dtype)
        for context in wrapper.optimizer_swapper.swap_params_info[master.ds_id].tensors
    }
