"""The loss scale and the counters of an engine, as a checkpoint keeps them."""

import json
from types import SimpleNamespace

from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

from pipeline.deepspeed.loss_scale import counters_and_scale, restore_counters_and_scale


def test_the_dynamic_loss_scale_goes_through_a_checkpoint(monkeypatch):
    """As fp16 leaves it after overflows; fp16 itself needs a device that most CPUs are not."""
    monkeypatch.setattr("deepspeed.runtime.fp16.loss_scaler.dist.get_rank", lambda: 1)

    def engine(overflows):
        scaler = DynamicLossScaler(2.0**16, scale_window=5, min_scale=1.0, delayed_shift=2, consecutive_hysteresis=False)
        for overflow in overflows:
            scaler.update_scale(overflow)
        counters = {"global_steps": len(overflows), "global_samples": 8 * len(overflows), "skipped_steps": sum(overflows)}
        return SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=scaler), **counters)

    stopped = engine([False, True, True, False, True])
    resumed = engine([])
    restore_counters_and_scale(resumed, **json.loads(json.dumps(counters_and_scale(stopped))))
    assert vars(resumed.optimizer.loss_scaler) == vars(stopped.optimizer.loss_scaler)
    assert resumed.optimizer.loss_scaler.cur_scale == 2.0**14
    assert (resumed.global_steps, resumed.global_samples, resumed.skipped_steps) == (5, 40, 3)
    for overflow in [False] * 7 + [True]:
        stopped.optimizer.loss_scaler.update_scale(overflow)
        resumed.optimizer.loss_scaler.update_scale(overflow)
    assert resumed.optimizer.loss_scaler.cur_scale == stopped.optimizer.loss_scaler.cur_scale
