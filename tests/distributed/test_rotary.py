"""Rotary positions inside an engine: as exact in bf16 as Hugging Face has them."""

import pytest
import torch

from pipeline.families import FAMILIES, scratch_config, sizes_of
from pipeline.growth.initialization import initialized
from pipeline.recipe import ModelConfig, OptimizerConfig
from pipeline.training.blocks import cut
from pipeline.training.engine import build
from tests.ranks import run_ranks


def llama():
    described = ModelConfig(family="llama", hidden_size=64, num_hidden_layers=1, num_attention_heads=2)
    return FAMILIES["llama"], scratch_config(described, 50, 2, 600)


def frequencies(stage: int) -> torch.Tensor:
    family, config = llama()
    ds_config = {
        "train_batch_size": 1,
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": True},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
    }
    trained = build(
        family,
        config,
        initialized(family, config, 1),
        ds_config,
        OptimizerConfig(),
        cut(sizes_of(config).num_hidden_layers, []),
        "sdpa",
    )
    held = trained.module.model.rotary_emb.inv_freq.clone()
    trained.close()
    return held


@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.full), 3])
def test_rotary_frequencies_stay_fp32_in_a_bf16_engine(stage):
    family, config = llama()
    expected = family.model_class(config).model.rotary_emb.inv_freq
    (held,) = run_ranks(frequencies, 1, stage)
    assert held.dtype == torch.float32
    assert torch.equal(held, expected)
