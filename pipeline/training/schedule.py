"""The learning rate over a model's training."""

import math

from pipeline.recipe import ScheduleConfig


def rate_factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Return the share of the peak rate at `step` (from 0) of `steps`: linear warmup, then the schedule's fall."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    fall = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[schedule.name]
    return schedule.final_ratio + (1.0 - schedule.final_ratio) * fall
