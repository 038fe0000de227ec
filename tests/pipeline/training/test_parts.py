import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

from pipeline.common.errors import UserError
from pipeline.deepspeed.loss_scale import counters_and_scale, restore_counters_and_scale
from pipeline.recipe import load_recipe
from pipeline.runs import JsonLines
from pipeline.training.directory.checkpoints import CheckpointMetadata
from pipeline.training.ds_config import load_ds_config
from pipeline.training.loop.running import draw_depths

ROOT = Path(__file__).parents[3]


def test_sub_models_are_drawn_uniformly_by_step():
    depths = draw_depths(12, 3, (1, "a"), 0, 4000).tolist()
    counts = Counter(depths)
    assert counts.keys() == {3, 6, 9, 12}
    # Each count has mean 1000 and deviation 27.
    assert all(abs(count - 1000) < 140 for count in counts.values())
    assert depths[1000:1010] == draw_depths(12, 3, (1, "a"), 1000, 10).tolist()


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl", dict)
    lines.append({"step": 1})
    lines.append({"step": 2})
    with open(lines.path, "a", encoding="utf-8") as file:
        file.write('{"step": 3, "lo')
    assert lines.read() == [{"step": 1}, {"step": 2}]
    lines.keep(lambda record: record["step"] <= 1)
    lines.append({"step": 2})
    assert lines.read() == [{"step": 1}, {"step": 2}]


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
    with pytest.raises(UserError, match=r"^recipe: train_batch_size 32 does not divide over 3 ranks"):
        load_ds_config(ROOT / "ds_configs" / "zero3.json", recipe, 3)


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
    saved = CheckpointMetadata(1, 5, {}, 0, 0.0, {}, **counters_and_scale(stopped))
    resumed = engine([])
    read = CheckpointMetadata(**json.loads(json.dumps(asdict(saved))))
    restore_counters_and_scale(resumed, read.counters, read.loss_scale)
    assert vars(resumed.optimizer.loss_scaler) == vars(stopped.optimizer.loss_scaler)
    assert resumed.optimizer.loss_scaler.cur_scale == 2.0**14
    assert (resumed.global_steps, resumed.global_samples, resumed.skipped_steps) == (5, 40, 3)
    for overflow in [False] * 7 + [True]:
        stopped.optimizer.loss_scaler.update_scale(overflow)
        resumed.optimizer.loss_scaler.update_scale(overflow)
    assert resumed.optimizer.loss_scaler.cur_scale == stopped.optimizer.loss_scaler.cur_scale
