"""What Lion and Muon keep, grown into engines: the same steps however it is divided, and at any number of ranks after that."""

import pytest
import torch

from pipeline.families import FAMILIES, scratch_config, target_config
from pipeline.growth.initialization import initialized
from pipeline.growth.plan import plan_growth
from pipeline.growth.zero_checkpoint import read_zero_checkpoint
from pipeline.recipe import GrowthConfig, ModelConfig, OptimizerConfig, TargetConfig
from pipeline.training import distributed
from pipeline.training.blocks import cut
from pipeline.training.engine import build
from pipeline.training.losses import summed_loss
from tests.ranks import run_ranks

FAMILY = FAMILIES["gpt2"]
SMALL = ModelConfig(family="gpt2", hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
LARGE = TargetConfig(hidden_size=24, num_hidden_layers=3)
"""One channel in two is copied, one layer is there again, and no number of ranks divides it all."""
GROWTH = {"width": "fpi", "depth": "stack", "new_moments": "scaled"}
OPTIMIZERS = {
    "lion": OptimizerConfig(name="lion", lr=1e-3),
    "muon": OptimizerConfig(name="muon", lr=3e-3, muon_lr=0.02),
}
BATCH, LENGTH, VOCABULARY = 6, 13, 35
SAME = {"lion": 2e-4, "muon": 2e-5}
"""fp32 sums in another order move a loss by 1e-7 of itself, and more where Lion takes the sign of what is as small as that."""


def train(trained, begin, end) -> list[float]:
    """Take these steps on batches that are the same at any number of ranks; return their losses over all ranks."""
    draws = torch.randint(0, VOCABULARY, (7, BATCH, LENGTH), generator=torch.Generator().manual_seed(3))
    ranks, share = distributed.world_size(), BATCH // distributed.world_size()
    losses = []
    for step in range(begin, end):
        ids = draws[step, distributed.rank() * share :][:share]
        loss = summed_loss(trained.logits(ids).tokens, ids) / (BATCH * LENGTH)
        trained.engine.backward(loss * ranks)
        trained.engine.step()
        losses.append(distributed.total(loss.item())[0])
    return losses


def built(config, state, name, stage, kept=None):
    ranks = distributed.world_size()
    ds_config = {
        "train_batch_size": BATCH,
        "train_micro_batch_size_per_gpu": BATCH // ranks,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage},
    }
    return build(FAMILY, config, state, ds_config, OPTIMIZERS[name], cut(config.num_hidden_layers, []), "sdpa", kept)


def save(trained, config, folder):
    trained.engine.save_checkpoint(str(folder), tag="here", save_latest=False)
    config.save_pretrained(folder / "here")
    torch.distributed.barrier()


def grown(folder, name, stage, *, fresh=False):
    """Return the engine of the target, grown from the source in a folder."""
    source = read_zero_checkpoint(folder / "source" / "here")
    target = target_config(source.config, LARGE)
    growth = GrowthConfig(**GROWTH, optimizer_state="grow")
    plan = plan_growth(source.config, target, growth, 3, optimizer=name)
    kept = plan.grow_optimizer(source.optimizer)
    return built(plan.config, plan.grow(source.state), name, stage, None if fresh else kept), plan.config


def train_sharded(folder, name, stages) -> dict:
    """Train a source, and the target under each ZeRO stage, with a checkpoint after the third of six steps."""
    config = scratch_config(SMALL, VOCABULARY, 0, LENGTH)
    source = built(config, initialized(FAMILY, config, 5), name, 3)
    train(source, 0, 3)
    save(source, config, folder / "source")
    source.close()
    found = {}
    for stage in stages:
        trained, config = grown(folder, name, stage)
        found[stage] = train(trained, 0, 3)
        save(trained, config, folder / str(stage))
        found[stage] += train(trained, 3, 6)
        trained.close()
    return found


def train_whole(folder, name, stages) -> dict:
    """Return the losses of six steps of the target, of three from each checkpoint, and of six without the source's state."""
    found = {}
    for fresh in (False, True):
        trained, _ = grown(folder, name, 0, fresh=fresh)
        found["fresh" if fresh else "whole"] = train(trained, 0, 6)
        trained.close()
    return found | gone_on(folder, name, stages)


def gone_on(folder, name, stages) -> dict:
    """Return the losses of three steps from each checkpoint, at another number of ranks and under another ZeRO stage."""
    found = {}
    for stage in stages:
        source = read_zero_checkpoint(folder / str(stage) / "here")
        trained = built(source.config, source.state, name, 3 - stage, source.optimizer)
        found[stage] = train(trained, 3, 6)
        trained.close()
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_grown_state_steps_as_one_that_is_not_divided_and_goes_on_at_other_world_sizes(tmp_path, name):
    stages = (0, 1, 2, 3)
    sharded = run_ranks(train_sharded, 2, tmp_path, name, stages)
    (alone,) = run_ranks(train_whole, 1, tmp_path, name, (0, 2))
    three = run_ranks(gone_on, 3, tmp_path, name, (1, 3))
    for stage in stages:
        for losses in sharded:
            assert losses[stage] == pytest.approx(alone["whole"], abs=SAME[name]), stage
    for losses in ({stage: alone[stage] for stage in (0, 2)}, *three):
        for stage, resumed in losses.items():
            assert resumed == pytest.approx(sharded[0][stage][3:], abs=SAME[name]), stage
    # Without the source's state the same steps are others.
    assert max(abs(one - other) for one, other in zip(alone["whole"], alone["fresh"], strict=True)) > 10 * SAME[name]
