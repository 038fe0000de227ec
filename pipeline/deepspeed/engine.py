"""Engines: their models made in partitions, initialized, and their batches divided otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed import DeepSpeedEngine
from deepspeed.utils import groups
from torch import nn

from pipeline.common.errors import UserError
from pipeline.deepspeed import norms
from pipeline.deepspeed.norms import stay_on_the_device
from pipeline.deepspeed.release import check_release
from pipeline.deepspeed.traces import TraceCache

_ARANGE = torch.arange

_ALIGNMENT = 512
"""Bytes to which direct reads are aligned."""


@contextmanager
def exact_arange() -> Iterator[None]:
    """Keep the dtype that `torch.arange` is asked for; entered inside zero.Init, which rounds all floats to the model's dtype.

    Rotary frequencies are made of such ranges: in bfloat16 they are off by 0.4 %, which is whole turns at the end of a long
    sequence. Only some releases of transformers see to it, and only in `from_pretrained`.
    """
    # Where zero.Init puts a tensor that names no device.
    within = torch.arange
    device = within(0).device

    def exact(*arguments: Any, **options: Any) -> torch.Tensor:
        if options.get("device") is None:
            options["device"] = device
        return _ARANGE(*arguments, **options)

    torch.arange = exact
    try:
        yield
    finally:
        torch.arange = within


@contextmanager
def partitioned_construction(config: dict[str, Any], *, partitioned: bool) -> Iterator[None]:
    """Have the parameters of a model that is made meanwhile take the engine's dtype and device, and, by choice, partitions.

    Raises UserError for a release of DeepSpeed that is not known.
    """
    check_release(deepspeed.__version__, norms.NAMES)
    # hpZ's groups of ranks are made again for each model, and DeepSpeed refuses to where a former model's are left.
    groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None
    with deepspeed.zero.Init(config_dict_or_path=config, enabled=partitioned), exact_arange():
        yield


def initialize(
    model: nn.Module, config: dict[str, Any], optimizer: torch.optim.Optimizer | None, layers: str
) -> DeepSpeedEngine:
    """Return an engine around a model; `layers` is the name of the list of layers in it, of which a step may run some.

    The optimizer has to leave out steps whose gradient is not finite; without one the model is only run. Raises UserError where
    a disk's blocks do not fit the ranks.
    """
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    if optimizer is not None:
        stay_on_the_device(engine)
        _spare_frozen_masters(engine)
        if engine.zero_optimization_partition_weights():
            TraceCache(engine, layers)
    return engine


def _spare_frozen_masters(engine: DeepSpeedEngine) -> None:
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


def divide_batch(engine: DeepSpeedEngine, micro_batch_size: int, accumulation: int) -> None:
    """Have an engine take steps of so many micro-batches of so many sequences a rank; between two steps only."""
    config = engine._config
    config.train_micro_batch_size_per_gpu = micro_batch_size
    config.gradient_accumulation_steps = accumulation
    config.train_batch_size = micro_batch_size * accumulation * engine.dp_world_size
    if hasattr(engine.optimizer, "gradient_accumulation_steps"):
        engine.optimizer.gradient_accumulation_steps = accumulation
    # DeepSpeed takes a step at each multiple.
    engine.micro_steps = 0
