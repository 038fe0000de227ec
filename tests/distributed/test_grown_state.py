"""What Lion and Muon keep, grown into engines: the same steps however it is divided, and at any number of ranks after that."""

from dataclasses import replace

import pytest
import torch

from pipeline.families import scratch_config, target_config
from pipeline.growth.optimizer_growth import grow_optimizer
from pipeline.growth.plan import plan_growth
from pipeline.growth.zero_checkpoint import read_zero_checkpoint
from pipeline.recipe import GrowthConfig, ModelConfig, OptimizerConfig, TargetConfig
from pipeline.training.parameter_groups import cut
from tests.distributed.engines import built, engine_config, train_step
from tests.ranks import run_ranks

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
    return [train_step(trained, draws[step], draws[step]) for step in range(begin, end)]


def started(config, name, stage, source=None):
    return built(config, engine_config(stage, BATCH), OPTIMIZERS[name], cut(config.num_hidden_layers, []), source)


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
    kept = None if fresh else grow_optimizer(plan, source.optimizer)
    return started(plan.config, name, stage, replace(source, state=plan.grow(source.state), optimizer=kept)), plan.config


def train_sharded(folder, stages) -> dict:
    """Train sources, and the target of each under each ZeRO stage, with a checkpoint after the third of six steps."""
    found = {}
    for name in OPTIMIZERS:
        config = scratch_config(SMALL, VOCABULARY, 0, LENGTH)
        source = started(config, name, 3)
        train(source, 0, 3)
        save(source, config, folder / name / "source")
        source.close()
        for stage in stages:
            trained, config = grown(folder / name, name, stage)
            found[name, stage] = train(trained, 0, 3)
            save(trained, config, folder / name / str(stage))
            found[name, stage] += train(trained, 3, 6)
            trained.close()
    return found


def train_whole(folder, stages) -> tuple[dict, dict]:
    """Return the losses of six steps of each target, with the source's state and without; and what `gone_on` does."""
    found = {}
    for name in OPTIMIZERS:
        for fresh in (False, True):
            trained, _ = grown(folder / name, name, 0, fresh=fresh)
            found[name, fresh] = train(trained, 0, 6)
            trained.close()
    return found, gone_on(folder, stages)


def gone_on(folder, stages) -> dict:
    """Return the losses of three steps from each checkpoint, at another number of ranks and under another ZeRO stage."""
    found = {}
    for name in OPTIMIZERS:
        for stage in stages:
            source = read_zero_checkpoint(folder / name / str(stage) / "here")
            trained = started(source.config, name, 3 - stage, source)
            found[name, stage] = train(trained, 3, 6)
            trained.close()
    return found


@pytest.mark.parametrize("stages", [(0, 3), pytest.param((1, 2), marks=pytest.mark.full)])
def test_a_grown_state_steps_as_one_that_is_not_divided_and_goes_on_at_other_world_sizes(tmp_path, stages):
    sharded, _ = run_ranks(train_sharded, 2, tmp_path, stages)
    ((whole, one),) = run_ranks(train_whole, 1, tmp_path, stages[:1])
    three, *_ = run_ranks(gone_on, 3, tmp_path, stages[1:])
    for (name, stage), losses in sharded.items():
        assert losses == pytest.approx(whole[name, False], abs=SAME[name]), (name, stage)
        assert (one | three)[name, stage] == pytest.approx(losses[3:], abs=SAME[name]), (name, stage)
        # Without the source's state the same steps are others.
        apart = [abs(before - after) for before, after in zip(losses, whole[name, True], strict=True)]
        assert max(apart) > 10 * SAME[name]
