"""A model that is only run, partitioned over the ranks by ZeRO-3: no rank ever holds it whole."""

from pathlib import Path
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from transformers import PreTrainedModel

from pipeline.common.errors import UserError
from pipeline.families.routing import choose_products, route_in_float32
from pipeline.growth.state import Source
from pipeline.recipe import AUTO, read_ds_config
from pipeline.training.ds_config import check_sections, check_weights_stay_in_memory, compute_dtype, zero_stage
from pipeline.training.engine import build_engine

_SWITCHES = {torch.bfloat16: {"bf16": {"enabled": True}}, torch.float16: {"fp16": {"enabled": True}}, torch.float32: {}}


def load_partitioning(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Return the settings of partitioned weights in a DeepSpeed configuration, for a model that runs in `dtype`.

    Its settings of training are left out. Raises UserError where its ZeRO stage is not 3, which alone partitions weights.
    """
    config = read_ds_config(path)
    check_sections(config, str(path))
    check_weights_stay_in_memory(config, str(path))
    stage = zero_stage(config)
    if stage != 3:
        raise UserError(
            f"{path}: zero_optimization.stage: stage {stage} does not partition weights, which is all that evaluation uses the "
            "file for; leave --ds_config out, or name one of stage 3"
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
    """Return an engine that runs a source's model, each rank having read its own partitions; a collective call."""
    graph = source.family.graph(source.config)
    choose_products(source.config, graph, compute_dtype(ds_config))

    def prepare(model: PreTrainedModel) -> None:
        model.requires_grad_(False).eval()
        route_in_float32(model, graph)

    return build_engine(source.family, source.config, source.state, ds_config, prepare)
