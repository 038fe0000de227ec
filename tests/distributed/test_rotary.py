"""Rotary positions inside engines: as exact in half precision as Hugging Face has them, whichever release that is."""

from collections.abc import Callable

import deepspeed
import pytest
import torch
from transformers import PretrainedConfig

from pipeline.deepspeed.engine import exact_arange
from pipeline.families import FAMILIES, scratch_config
from pipeline.growth.sources import open_source
from pipeline.recipe import ModelConfig, OptimizerConfig
from pipeline.training.inference import load_partitioning, partitioned_engine
from pipeline.training.parameter_groups import cut
from tests.distributed.engines import built, engine_config
from tests.fp16 import FP16
from tests.ranks import run_ranks

LENGTH = 600
ROPES = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": LENGTH // 4},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": LENGTH // 4},
}
HALVES = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def configuration(rope: str) -> PretrainedConfig:
    described = ModelConfig(family="llama", hidden_size=64, num_hidden_layers=1, num_attention_heads=2)
    config = scratch_config(described, 50, 2, LENGTH)
    config.rope_parameters = {"rope_type": rope, "rope_theta": 1e4, **ROPES[rope]}
    return config


def trained(directory, stage: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The frequencies of engines that train, by kind."""
    held = {}
    ds_config = engine_config(stage, 1) | {HALVES[dtype]: {"enabled": True}}
    for rope in ROPES:
        model = built(configuration(rope), ds_config, OptimizerConfig(), cut(1, []))
        held[rope] = model.module.model.rotary_emb.inv_freq.clone()
        model.close()
    return held


def run(directory, stage: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The frequencies of engines that only run a model, by kind."""
    held = {}
    partitioning = directory / "zero.json"
    partitioning.write_text(f'{{"zero_optimization": {{"stage": {stage}}}}}')
    for rope in ROPES:
        FAMILIES["llama"].model_class(configuration(rope)).save_pretrained(directory / rope)
        engine = partitioned_engine(open_source(directory / rope), load_partitioning(partitioning, dtype))
        held[rope] = engine.module.model.rotary_emb.inv_freq.clone()
        engine.destroy()
    return held


def each(directory, ways: list[tuple[Callable, int]], dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    return [frequencies(directory, stage, dtype) for frequencies, stage in ways]


@pytest.mark.parametrize("dtype", [torch.bfloat16, FP16])
@pytest.mark.parametrize("ways", [[(trained, 3), (run, 3)], pytest.param([(trained, 2)], marks=pytest.mark.full)])
def test_rotary_frequencies_stay_fp32_in_an_engine_of_half_precision(ways, dtype, tmp_path):
    for held in run_ranks(each, 1, tmp_path, ways, dtype)[0]:
        for rope in ROPES:
            expected = FAMILIES["llama"].model_class(configuration(rope)).model.rotary_emb.inv_freq
            assert held[rope].dtype == torch.float32, rope
            assert torch.equal(held[rope], expected), rope


def ranges() -> None:
    ds_config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}
    with deepspeed.zero.Init(config_dict_or_path=ds_config):
        rounded = torch.arange(0, 600, 2, dtype=torch.float)
        with exact_arange():
            asked, whole, placed = torch.arange(0, 600, 2, dtype=torch.float), torch.arange(5), torch.arange(5, device="meta")
        again = torch.arange(0, 600, 2, dtype=torch.float)
    assert rounded.dtype == again.dtype == torch.bfloat16, "zero.Init rounds, and exact_arange ends"
    assert torch.equal(asked, torch.arange(0, 600, 2, dtype=torch.float))
    assert whole.dtype == torch.int64 and placed.device.type == "meta"


def test_ranges_have_the_dtype_and_the_device_that_are_asked_for():
    run_ranks(ranges, 1)
