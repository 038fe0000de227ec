"""Growth written into live engines: exact masters, rounded weights, and no rank reading more than its pieces."""

import pytest
import torch

from pipeline.families import FAMILIES, scratch_config, sizes_of, target_config
from pipeline.growth.plan import plan_growth
from pipeline.growth.sources import HuggingFaceSource
from pipeline.recipe import GrowthConfig, ModelConfig, OptimizerConfig, TargetConfig
from pipeline.training import distributed
from pipeline.training.engine import build
from tests.ranks import run_ranks


class Watched:
    """A tensor that remembers the most elements that were read of it at once."""

    def __init__(self, tensor):
        self.shape = tensor.shape
        self.most = 0
        self._tensor = tensor

    def rows(self, start, stop):
        values = self._tensor.rows(start, stop)
        self.most = max(self.most, values.numel())
        return values


def grown(directory):
    source = HuggingFaceSource(directory)
    config = target_config(source.config, TargetConfig(hidden_size=40, num_hidden_layers=3))
    growth = GrowthConfig(width="nai", noise=0.1, depth="stack")
    plan = plan_growth(source.family, sizes_of(source.config), sizes_of(config), growth, 3)
    return source.family, config, plan.grow(source.state)


def check_engine(directory, stage, bf16):
    family, config, state = grown(directory)
    watched = {name: Watched(tensor) for name, tensor in state.items()}
    ranks = distributed.world_size()
    ds_config = {
        "train_batch_size": ranks,
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": bf16},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
    }
    trained = build(family, config, watched, ds_config, OptimizerConfig(), 3, "sdpa")
    dtype = torch.bfloat16 if bf16 else torch.float32
    for name, parameter in trained.module.named_parameters():
        whole = state[name].rows(0, state[name].shape[0])
        held = getattr(parameter, "ds_tensor", parameter).detach()
        assert held.dtype == dtype
        assert torch.equal(trained.full_weight(parameter), whole), f"{name}: master"
        if stage == 3:
            size, start = held.numel(), distributed.rank() * held.numel()
            expected = whole.flatten()[start : start + size].to(dtype)
            assert torch.equal(held[: len(expected)], expected), f"{name}: piece"
            width = whole[0].numel()
            assert watched[name].most <= size + 2 * width, f"{name}: {watched[name].most} elements read at once"
        else:
            assert torch.equal(held, whole.to(dtype)), f"{name}: weight"
    input_ids = torch.arange(12)[None] % config.vocab_size
    trained.engine.eval()
    with torch.no_grad():
        logits = trained.logits(input_ids)
    trained.close()
    return logits.float()


def check_all(directory):
    return {(stage, bf16): check_engine(directory, stage, bf16) for stage in (1, 2, 3) for bf16 in (False, True)}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_live_partitions_hold_the_grown_weights(tmp_path, family, ranks):
    torch.manual_seed(1)
    described = ModelConfig(family=family, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, vocab_size=35)
    model = FAMILIES[family].model_class(scratch_config(described, 35, 0, 13))
    model.save_pretrained(tmp_path)
    results = run_ranks(check_all, ranks, tmp_path)

    family_table, config, state = grown(tmp_path)
    plain = family_table.model_class(config)
    plain.load_state_dict({name: rows.rows(0, rows.shape[0]) for name, rows in state.items()}, strict=False)
    plain.tie_weights()
    with torch.no_grad():
        expected = plain.eval()(input_ids=torch.arange(12)[None] % 35).logits
    for result in results:
        for (stage, bf16), logits in result.items():
            # bf16 has 8 bits: 2^-8 of values up to about 1, through a few layers.
            assert (logits - expected).abs().max() < (0.03 if bf16 else 1e-5), (stage, bf16)
