"""Engines: their models made in partitions, initialized, and their batches divided otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed import DeepSpeedEngine
from deepspeed.utils import groups
from torch import nn

from pipeline.deepspeed import norms
from pipeline.deepspeed.disk import spare_frozen_masters
from pipeline.deepspeed.norms import stay_on_the_device
from pipeline.deepspeed.release import check_release
from pipeline.deepspeed.traces import TraceCache

_ARANGE = torch.arange


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
        spare_frozen_masters(engine)
        if engine.zero_optimization_partition_weights():
            TraceCache(engine, layers)
    return engine


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
