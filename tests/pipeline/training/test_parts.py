import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

from data_prep.errors import UserError
from pipeline.families import scratch_config
from pipeline.families.gpt2 import GPT2
from pipeline.recipe import ModelConfig, OptimizerConfig, ScheduleConfig, StageConfig, load_recipe
from pipeline.training.checkpoints import Checkpoints, Saved, engine_state, restore_engine
from pipeline.training.ds_config import load_ds_config
from pipeline.training.engine import build
from pipeline.training.metrics import JsonLines
from pipeline.training.optimizer import layers_per_block
from pipeline.training.schedule import rate_factor
from pipeline.training.submodel import draw_depth

ROOT = Path(__file__).parents[3]


def test_rates_by_hand():
    linear = ScheduleConfig(name="linear", warmup_steps=4, final_ratio=0.2)
    assert [rate_factor(linear, step, 12) for step in (0, 3, 4, 8, 12)] == pytest.approx([0.25, 1, 1, 0.6, 0.2])
    cosine = ScheduleConfig(name="cosine", final_ratio=0.0)
    assert rate_factor(cosine, 3, 12) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert rate_factor(ScheduleConfig(name="constant"), 11, 12) == 1


def test_sub_models_are_drawn_uniformly_by_step():
    depths = [draw_depth(12, 3, (1, "a", step)) for step in range(4000)]
    counts = Counter(depths)
    assert counts.keys() == {3, 6, 9, 12}
    # Each count has mean 1000 and deviation 27.
    assert all(abs(count - 1000) < 140 for count in counts.values())
    assert depths == [draw_depth(12, 3, (1, "a", step)) for step in range(4000)]


def test_groups_are_as_large_as_every_stages_blocks_allow():
    def stage(layers):
        return StageConfig(name="s", steps=1, submodel_layers=layers)

    assert layers_per_block([stage(None)], 12) == 12
    assert layers_per_block([stage(4), stage(6)], 12) == 2


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.append({"step": 1})
    lines.append({"step": 2})
    with open(lines.path, "a") as file:
        file.write('{"step": 3, "lo')
    assert lines.read() == [{"step": 1}, {"step": 2}]
    lines.keep(lambda record: record["step"] <= 1)
    lines.append({"step": 2})
    assert lines.read() == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5, 6])
def test_as_many_checkpoints_stay_as_asked(tmp_path, keep):
    names = [f"step-{step:08d}" for step in range(1, 6)]
    for name in [*names, "step-00000009.partial", "step-00000000.deleted"]:
        (tmp_path / name).mkdir()
    Checkpoints(tmp_path, keep)._remove_old(names[-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == names[-keep:]


@pytest.mark.parametrize(
    ("ranks", "most", "micro", "accumulation"), [(1, 32, 32, 1), (2, 32, 16, 1), (2, 5, 4, 4), (4, 3, 2, 4)]
)
def test_accumulation_follows_from_the_ranks(ranks, most, micro, accumulation):
    recipe = load_recipe(
        ROOT / "launch" / "recipes" / "quickstart.yaml",
        ["train_batch_size=32", f"train_micro_batch_size_per_gpu={most}"],
    )
    config = load_ds_config(ROOT / "ds_configs" / "zero3.json", recipe, ranks)
    assert config["train_micro_batch_size_per_gpu"] == micro
    assert config["gradient_accumulation_steps"] == accumulation


def test_a_batch_that_the_ranks_do_not_divide_is_refused():
    recipe = load_recipe(ROOT / "launch" / "recipes" / "quickstart.yaml", ["train_batch_size=32"])
    with pytest.raises(UserError, match="train_batch_size 32 does not divide over 3 ranks"):
        load_ds_config(ROOT / "ds_configs" / "zero3.json", recipe, 3)


def test_every_shipped_deepspeed_configuration_resolves():
    recipe = load_recipe(ROOT / "launch" / "recipes" / "quickstart.yaml", [])
    names = {path.stem for path in (ROOT / "ds_configs").glob("*.json")}
    assert names == {"zero1", "zero2", "zero3", "zero3_offload"}
    for name in names:
        config = load_ds_config(ROOT / "ds_configs" / f"{name}.json", recipe, 2)
        assert "auto" not in str(config)
        assert config["gradient_clipping"] == recipe.optimizer.gradient_clipping


def test_the_dynamic_loss_scale_goes_through_a_checkpoint(monkeypatch):
    """As fp16 leaves it after overflows; fp16 itself needs a device that most CPUs are not."""
    monkeypatch.setattr("deepspeed.runtime.fp16.loss_scaler.dist.get_rank", lambda: 1)

    def engine(overflows):
        scaler = DynamicLossScaler(
            init_scale=2.0**16,
            scale_window=5,
            min_scale=1.0,
            delayed_shift=2,
            consecutive_hysteresis=False,
        )
        for overflow in overflows:
            scaler.update_scale(overflow)
        counters = {"global_steps": len(overflows), "global_samples": 8 * len(overflows), "skipped_steps": sum(overflows)}
        return SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=scaler), **counters)

    stopped = engine([False, True, True, False, True])
    saved = Saved("target", 5, 0, 0, 0.0, {}, {}, **engine_state(stopped))
    resumed = engine([])
    restore_engine(resumed, Saved(**json.loads(json.dumps(asdict(saved)))))
    assert vars(resumed.optimizer.loss_scaler) == vars(stopped.optimizer.loss_scaler)
    assert resumed.optimizer.loss_scaler.cur_scale == 2.0**14
    assert (resumed.global_steps, resumed.global_samples, resumed.skipped_steps) == (5, 40, 3)
    for overflow in [False] * 7 + [True]:
        stopped.optimizer.loss_scaler.update_scale(overflow)
        resumed.optimizer.loss_scaler.update_scale(overflow)
    assert resumed.optimizer.loss_scaler.cur_scale == stopped.optimizer.loss_scaler.cur_scale


def test_masters_on_nvme_are_refused():
    described = ModelConfig(family="gpt2", hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)
    ds_config = {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}
    with pytest.raises(UserError, match="offload_optimizer"):
        build(GPT2, scratch_config(described, 8, 0, 8), {}, ds_config, OptimizerConfig(), 1, "sdpa")
