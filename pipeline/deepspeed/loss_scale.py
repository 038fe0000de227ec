"""The loss scale of an engine in fp16, and the engine's counters: what a run that goes on needs beside tensors."""

from collections.abc import Mapping
from typing import Any

from deepspeed import DeepSpeedEngine

_COUNTERS = ("global_steps", "global_samples", "skipped_steps")
_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def counters_and_scale(engine: DeepSpeedEngine) -> dict[str, dict[str, Any]]:
    """Return an engine's `counters`, and where its dynamic `loss_scale` stands: empty where it has none."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    dynamic = getattr(scaler, "dynamic", False)
    return {
        "counters": {name: getattr(engine, name) for name in _COUNTERS},
        "loss_scale": {name: getattr(scaler, name) for name in _SCALE} if dynamic else {},
    }


def restore_counters_and_scale(engine: DeepSpeedEngine, counters: Mapping[str, int], loss_scale: Mapping[str, float]) -> None:
    """Set them to where a checkpoint's engine stood."""
    for name, count in counters.items():
        setattr(engine, name, count)
    for name, number in loss_scale.items():
        setattr(engine.optimizer.loss_scaler, name, number)


def stay_at_the_least_scale(engine: DeepSpeedEngine) -> None:
    """Have an engine in fp16 skip steps that overflow at the least scale, where DeepSpeed ends the run."""
    if engine.fp16_enabled():
        engine.optimizer.loss_scaler.raise_error_at_min_scale = False


def may_lower_scale(engine: DeepSpeedEngine) -> bool:
    """Whether a step that overflowed is the dynamic scale's affair: it is not at its least."""
    if not engine.fp16_enabled():
        return False
    scaler = engine.optimizer.loss_scaler
    return scaler.dynamic and not (engine.optimizer.overflow and scaler.cur_scale <= scaler.min_scale)
