"""Learning rates over the steps of a training, as shares of a peak."""

import math

import torch

from pipeline.recipe import ScheduleConfig


def decay_steps(schedule: ScheduleConfig, steps: int) -> int:
    """Return over how many of so many steps the rate of a wsd schedule falls."""
    return max(1, round(schedule.decay_ratio * steps))


def rate_factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Return the share of the peak rate at `step` (from 0) of `steps`: linear warmup, then the schedule's fall.

    wsd: Hu et al. 2024 (MiniCPM) with the decays of Haegele et al. 2024, `sqrt` being 1 - sqrt(t);
    inverse_sqrt: Vaswani et al. 2017, sqrt(warmup / (step + 1)), whatever `steps` is.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "inverse_sqrt":
        return math.sqrt(schedule.warmup_steps / (step + 1))
    begin, shape = schedule.warmup_steps, str(schedule.name)
    if schedule.name == "wsd":
        begin, shape = max(begin, steps - decay_steps(schedule, steps)), schedule.decay
    progress = min(1.0, max(0, step - begin) / max(1, steps - begin))
    fall = {
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        "sqrt": 1.0 - math.sqrt(progress),
    }[shape]
    # At the peak it is the peak: runs of other lengths take the same steps up to their falls, to the bit.
    return 1.0 if fall == 1.0 else schedule.final_ratio + (1.0 - schedule.final_ratio) * fall


def stage_warmup(step_in_stage: int, warmup_steps: int) -> float:
    """Return the share of the schedule's rate at a step (from 0) of a stage, which is climbed to over `warmup_steps`."""
    return min(1.0, (step_in_stage + 1) / max(1, warmup_steps))


def added_share(left: torch.Tensor, warmup_steps: float, lr_ratio: float, decay_steps: float) -> torch.Tensor:
    """Return the share of the common rate by which what a growth added moves in a step after which so many are left to it.

    In its step t of warmup_steps + decay_steps that is min(1, t / warmup_steps) (1 + (lr_ratio - 1) d), where d falls linearly
    from 1, at the end of the warmup, to 0: exactly 1 where none are left.
    """
    step = warmup_steps + decay_steps - left
    share = (step / max(1.0, warmup_steps)).clamp(0.0 if warmup_steps else 1.0, 1.0)
    if decay_steps:
        share = share * (1.0 + (lr_ratio - 1.0) * (left / decay_steps).clamp(max=1.0))
    return share
