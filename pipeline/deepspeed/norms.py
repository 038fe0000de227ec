"""The gradient's norm and its clipping under DeepSpeed on the device: the host never waits for it.

DeepSpeed 0.19 takes the norm by several operations on every gradient and checks on the host that it is a number: at each
parameter group under ZeRO 1 and 2, once under ZeRO 3, at each parameter without ZeRO in bf16. Here one call takes the norms of
all gradients, and the optimizer learns on the device whether they are finite.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import deepspeed.comm as dist
import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.utils import combine_grad_norm_groups
from deepspeed.runtime.zero import stage3, stage_1_and_2
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from deepspeed.runtime.zero.utils import get_norm_dtype
from deepspeed.utils.bwc import bwc_tensor_model_parallel_world_size

NAMES: tuple[tuple[Any, str], ...] = (
    (stage_1_and_2, "is_invalid_grad_norm"),
    (stage3, "is_invalid_grad_norm"),
    (DeepSpeedZeroOptimizer, "scaled_global_norm"),
    (DeepSpeedZeroOptimizer_Stage3, "_get_norm_groups"),
    (DeepSpeedZeroOptimizer_Stage3, "_get_param_partition_group"),
    (FP16_UnfusedOptimizer, "step"),
    (DeepSpeedEngine, "clip_fp32_gradients"),
)
"""What is replaced or called here and is not for others to use: a replacement that nobody calls has no effect."""


def stay_on_the_device(engine: DeepSpeedEngine) -> None:
    """Have an engine's steps take and clip the norm on the device; the optimizer has to leave out what is not finite.

    Left as they are: fp16, whose loss scale the host must know; an optimizer in the host's memory; parameters that several
    ranks of a model-parallel group hold; ZeRO 1 in bf16 with fp32 accumulation (`data_types.grad_accum_dtype`).
    """
    wrapper = engine.optimizer
    if engine.fp16_enabled() or bwc_tensor_model_parallel_world_size(engine.mpu) > 1:
        return
    if isinstance(wrapper, DeepSpeedZeroOptimizer) and not wrapper.cpu_offload:
        wrapper.scaled_global_norm = partial(_norm_of_groups, wrapper)
        wrapper.step = _without_check(wrapper.step, stage_1_and_2)
    elif isinstance(wrapper, DeepSpeedZeroOptimizer_Stage3) and not wrapper.offload_optimizer:
        wrapper._get_norm_groups = partial(_norms_of_partitions, wrapper)
        wrapper.step = _without_check(wrapper.step, stage3)
    elif isinstance(wrapper, FP16_UnfusedOptimizer):
        wrapper.step = partial(_step_masters, wrapper)
    elif not engine.zero_optimization():
        engine.clip_fp32_gradients = partial(_clip, engine)


def known_on_the_host(engine: DeepSpeedEngine) -> bool:
    """Whether the host knows an engine's gradient norm before the optimizer moves anything, having waited for the device."""
    wrapper = engine.optimizer
    offloads = getattr(wrapper, "cpu_offload", False) or getattr(wrapper, "offload_optimizer", False)
    return engine.fp16_enabled() or bool(offloads)


def norm_before_step(engine: DeepSpeedEngine) -> torch.Tensor | float:
    """Return the norm over all ranks of the gradient that the optimizer is about to use; no collective call.

    ZeRO has set it by then, before the optimizer steps anything; without it every rank holds the averaged
    gradient whole.
    """
    wrapper = engine.optimizer
    if hasattr(wrapper, "_global_grad_norm"):
        assert wrapper._global_grad_norm is not None, "zero_optimization.compute_grad_norm is off"
        return wrapper._global_grad_norm
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    return whole_norm(gradients) if gradients else torch.zeros((), device=engine.device)


def norm_of_step(engine: DeepSpeedEngine, before: torch.Tensor | float) -> torch.Tensor | float:
    """Return the norm of the last step's gradient; `before` is what `norm_before_step` returned, if it was asked."""
    return getattr(engine.optimizer, "_global_grad_norm", before)


def whole_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Return the norm over gradients that every rank holds whole."""
    return _squares([gradients], torch.float32)[0].sqrt()


def _squares(groups: list[list[torch.Tensor]], dtype: torch.dtype) -> torch.Tensor:
    """Return the squared norms of groups of gradients, [groups]; 0 for one without any."""
    norms = torch._foreach_norm([gradient for group in groups for gradient in group], 2.0, dtype=dtype)
    return torch.stack([group.sum() for group in torch.stack(norms).pow(2).split(list(map(len, groups)))])


def _norm_of_groups(wrapper: DeepSpeedZeroOptimizer, norm_type: int = 2) -> torch.Tensor:
    """What `scaled_global_norm` of ZeRO 1 and 2 returns, infinite where it is no number."""
    groups = [
        [gradient for gradient in wrapper.averaged_gradients[number] if not getattr(gradient, "_zero_padding", False)]
        for number in range(len(wrapper.bit16_groups))
    ]
    if not any(groups):
        # One of many ranks, whose partition is padding alone.
        groups[0].append(torch.zeros(1, device=wrapper.device))
    summed = _squares(groups, get_norm_dtype()).float()
    dist.all_reduce(summed, group=wrapper.dp_process_group)
    return combine_grad_norm_groups(list(summed.sqrt().unbind()))


def _norms_of_partitions(wrapper: DeepSpeedZeroOptimizer_Stage3) -> list[torch.Tensor]:
    """What `_get_norm_groups` of ZeRO 3 returns; it makes one infinite norm of any that is no number."""
    groups = [wrapper.averaged_gradients[number] for number in range(len(wrapper.fp16_groups))]
    summed = _squares(groups, get_norm_dtype())
    dist.all_reduce(summed, group=wrapper._get_param_partition_group(wrapper.fp16_groups[0][0]))
    return list(summed.sqrt().unbind())


def _without_check(step: Callable[..., Any], module: Any) -> Callable[..., Any]:
    """Return a wrapper's `step` that goes on with any norm, since the optimizer decides."""

    def unchecked(*arguments: Any, **options: Any) -> Any:
        original, module.is_invalid_grad_norm = module.is_invalid_grad_norm, lambda norm: False
        try:
            return step(*arguments, **options)
        finally:
            module.is_invalid_grad_norm = original

    return unchecked


@torch.no_grad()
def _step_masters(wrapper: FP16_UnfusedOptimizer, closure: None = None) -> bool:
    """Step fp32 masters by the gradients of bf16 weights that every rank holds whole."""
    weights = [weight for group in wrapper.fp16_groups for weight in group]
    masters = [master for group in wrapper.fp32_groups for master in group]
    for master, weight in zip(masters, weights, strict=True):
        master.grad = torch.zeros_like(master) if weight.grad is None else weight.grad.to(master.dtype)
    gradients = [master.grad for master in masters]
    wrapper._global_grad_norm = whole_norm(gradients)
    if wrapper.clip_grad > 0:
        _scale_down(gradients, wrapper._global_grad_norm, wrapper.clip_grad)
    wrapper.optimizer.step()
    torch._foreach_copy_(weights, masters)
    for master in masters:
        master.grad = None
    return False


def _clip(engine: DeepSpeedEngine) -> None:
    """Clip the gradients of fp32 weights that every rank holds whole."""
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    if gradients:
        _scale_down(gradients, whole_norm(gradients), engine.gradient_clipping())


@torch.no_grad()
def _scale_down(gradients: list[torch.Tensor], norm: torch.Tensor, most: float) -> None:
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))
