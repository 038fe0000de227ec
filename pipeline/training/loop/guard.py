"""Losses and gradients that are no numbers, and losses that spike: what is done about a step.

A step without a finite gradient is skipped by every rank; several in a row, or a spike, send the run back to its last
checkpoint and past the data in between (as in PaLM, Chowdhery et al. 2022, section 5.1). That a step moves nothing is decided
where its gradient is, on the device; what is made of it is decided on the host, to which loss and norm come a step later.
"""

import math
from collections import deque
from collections.abc import Iterable
from enum import Enum

import torch
from deepspeed import DeepSpeedEngine

from pipeline.deepspeed.loss_scale import may_lower_scale, stay_at_the_least_scale
from pipeline.deepspeed.norms import known_on_the_host, norm_before_step, norm_of_step
from pipeline.recipe import GuardConfig

Kind = tuple[str, int | None]
"""Steps whose losses can be compared: of one stage, and of one depth where it trains sub-models."""


class StepOutcome(Enum):
    """What becomes of a step."""

    TRAINED = "trained"
    SKIPPED = "skipped"
    """No parameter, moment or step counter has moved."""
    REWIND = "rewind"
    """The run goes back to its last checkpoint."""


class GuardStoppedError(RuntimeError):
    """A run that has gone back as often as it may, and has met the same again."""

    def __init__(self, seen: str, step: int, rewinds: int) -> None:
        times = "once" if rewinds == 1 else f"{rewinds} times"
        super().__init__(
            f"step {step}: {seen}, after going back {times} (guard.rewinds); look at the data and the learning rate around "
            "that step: allow more, or begin another run, with other settings, from this one's checkpoints by source.path"
        )


class Guard:
    """Judges the steps of one model's training, one after the other; the same on every rank, being shown the same."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._windows: dict[Kind, deque[float]] = {}
        self._skipped = 0
        self.seen = ""
        """What was seen at the last step that was not trained."""

    @classmethod
    def seeded(cls, config: GuardConfig, steps: Iterable[tuple[Kind, float | None, bool]]) -> "Guard":
        """Return the guard that has seen these steps: of each its kind, the loss (None where it was no number) and `finite`.

        A run that goes on judges as one that was not interrupted: its own records hold all that matters.
        """
        guard = cls(config)
        for kind, loss, finite in steps:
            guard.observe(kind, math.nan if loss is None else loss, finite)
        return guard

    @property
    def skipping(self) -> bool:
        """Whether the last step was without a finite loss and gradient."""
        return self._skipped > 0

    def observe(self, kind: Kind, loss: float, finite: bool) -> StepOutcome:
        """Judge a step by its loss over all ranks, in nats, and by whether its gradient was finite on all of them.

        A spike is looked for among losses of the step's own kind, once `spike_window` of them have been seen: the first
        ones fall too fast to be compared.
        """
        window = self._windows.setdefault(kind, deque(maxlen=self._config.spike_window))
        if not (finite and math.isfinite(loss)):
            self._skipped += 1
            what = "gradient" if math.isfinite(loss) else "loss"
            steps = "1 step" if self._skipped == 1 else f"{self._skipped} steps in a row"
            self.seen = f"{steps} without a finite {what} (the last loss was {loss:.4g})"
            return StepOutcome.REWIND if self._skipped >= self._config.skipped_steps else StepOutcome.SKIPPED
        self._skipped = 0
        if self._config.spike is not None and len(window) == self._config.spike_window:
            mean = sum(window) / len(window)
            if loss > self._config.spike * mean:
                self.seen = f"a loss of {loss:.4g} where the {len(window)} before it have a mean of {mean:.4g}"
                return StepOutcome.REWIND
        window.append(loss)
        return StepOutcome.TRAINED


def with_poison(loss: torch.Tensor) -> torch.Tensor:
    """Return the loss, the gradient of one that is no number made NaN throughout.

    An infinite loss may have a finite gradient; so the gradient's norm, which all ranks share, is enough for all of them,
    without another look on the host.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)


class Gradients:
    """Watches one engine's gradients, and refuses the steps of those that are not finite.

    No stage of ZeRO need look itself; fp16's overflows are the loss scale's own affair, for as long as it can fall.
    """

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._engine = engine
        self._waits = known_on_the_host(engine)
        self._norm: torch.Tensor | float = math.nan
        self._judged: torch.Tensor | float | None = None
        self._refused: torch.Tensor | bool = False
        # The run may still go back.
        stay_at_the_least_scale(engine)

    def refused(self) -> torch.Tensor | bool:
        """Whether the gradient at hand is to be left alone; asked within the optimizer's step, by every part of it.

        On the device, float32 and 1 for yes, but for an engine whose host knows the norm by then.
        """
        norm = norm_before_step(self._engine)
        if norm is not self._judged:
            self._norm = self._judged = norm
            if self._waits or not isinstance(norm, torch.Tensor):
                self._refused = not is_number(float(norm))
            else:
                # A negative one stands for NaN.
                known = torch.as_tensor(norm)
                self._refused = ((known >= 0) & (known < math.inf)).logical_not().float()
        return self._refused

    def last(self) -> tuple[torch.Tensor | float, bool]:
        """The norm of the last step's gradient, `is_number` where it moved something, and whether it is forgiven if not.

        The norm may lie on the device; it is the same on all ranks. Asked once after each step.
        """
        self._judged = None
        return norm_of_step(self._engine, self._norm), may_lower_scale(self._engine)


def is_number(norm: float) -> bool:
    """Whether a gradient of this norm is finite; DeepSpeed has negative ones stand for NaN."""
    return 0 <= norm < math.inf
