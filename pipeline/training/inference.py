"""A model that is only run, partitioned over the ranks by ZeRO-3: no rank ever holds it whole."""

from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed import DeepSpeedEngine
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from pipeline.common.errors import UserError
from pipeline.families.routing import choose_products, route_in_float32
from pipeline.growth.fused_parameters import parameters_of
from pipeline.growth.state import Source, flat
from pipeline.growth.streaming import CHUNK_ELEMENTS, CONSTRUCTING
from pipeline.growth.zero_sink import fill_buffers
from pipeline.recipe import AUTO, read_ds_config
from pipeline.training import distributed
from pipeline.training.ds_config import check_sections, check_weights_stay_in_memory, compute_dtype, zero_stage
from pipeline.training.ranges import exact_arange

_SWITCHES = {torch.bfloat16: {"bf16": {"enabled": True}}, torch.float16: {"fp16": {"enabled": True}}, torch.float32: {}}


def load_partitioning(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Return what a DeepSpeed configuration says of partitioned weights, for a model that runs in `dtype`.

    What it says of training is left out. Raises UserError where its ZeRO stage is not 3, which alone partitions weights.
    """
    config = read_ds_config(path)
    check_sections(config, str(path))
    check_weights_stay_in_memory(config, str(path))
    stage = zero_stage(config)
    if stage != 3:
        raise UserError(
            f"{path}: zero_optimization.stage: {stage} does not partition weights, and nothing else is asked of it here; leave "
            "--ds_config out, or name one of stage 3"
        )
    kept = {
        key: value
        for key, value in config["zero_optimization"].items()
        if key in ("stage", "offload_param") or (key.startswith("stage3_") and value != AUTO)
    }
    # DeepSpeed asks for one; nothing is trained.
    return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": kept, **_SWITCHES[dtype]}


@torch.no_grad()
def partitioned_engine(source: Source, ds_config: dict[str, Any]) -> DeepSpeedEngine:
    """Return an engine that runs a source's model, each rank having read its own pieces; a collective call."""
    graph = source.family.graph(source.config)
    choose_products(source.config, graph, compute_dtype(ds_config))
    with (
        CONSTRUCTING,
        deepspeed.zero.Init(config_dict_or_path=ds_config),
        exact_arange(),
        no_init_weights(),
    ):
        model: PreTrainedModel = source.family.model_class(source.config)
    model.tie_weights()
    model.requires_grad_(False)
    route_in_float32(model, graph)
    engine, *_ = deepspeed.initialize(model=model.eval(), config=ds_config)
    state = parameters_of(graph, source.state)
    fill_buffers(engine, state)
    for name, parameter in engine.module.named_parameters():
        piece = parameter.ds_tensor
        start = min(distributed.rank() * piece.numel(), parameter.ds_numel)
        stop = min(start + piece.numel(), parameter.ds_numel)
        for begin in range(start, stop, CHUNK_ELEMENTS):
            end = min(begin + CHUNK_ELEMENTS, stop)
            values = flat(state[name], begin, end)
            piece[begin - start : end - start] = values.to(piece.device, piece.dtype)
    return engine
