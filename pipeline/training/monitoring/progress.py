"""What a person sees while steps run: a bar on a terminal, else a line now and then."""

import logging
import sys
import time

from tqdm import tqdm

from pipeline.common.progress import LINE_SECONDS, duration
from pipeline.training.monitoring.utilization import Speed
from pipeline.training.plan.workload import Outlook, Workload

logger = logging.getLogger(__name__)


class Progress:
    """Progress over a run's steps, with the time that is left."""

    def __init__(self, workload: Workload, done: int, *, shown: bool) -> None:
        """Begin at `done` steps; `shown` on one rank only."""
        self._bar = tqdm(
            total=workload.steps,
            initial=done,
            unit="step",
            dynamic_ncols=True,
            file=sys.stdout,
            disable=not (shown and sys.stdout.isatty()),
            # Without tqdm's own guess of the time that is left, by which all steps cost the same.
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )
        self._total = workload.steps
        self._outlook = Outlook(workload)
        self._last_step: float | None = None
        self._last_line = time.monotonic()

    def step(self, number: int, stage: str, loss: float, speed: Speed, flops: int, seconds: float) -> None:
        """Show that step `number`, of so many executed FLOPs, is done."""
        now = time.monotonic()
        self._outlook.step(flops, seconds if self._last_step is None else now - self._last_step)
        self._last_step = now
        speed_and_rest = f"loss {loss:.3f}, {speed.words}, {duration(self._outlook.seconds_left(number))} left"
        self._bar.set_description(stage, refresh=False)
        self._bar.set_postfix_str(speed_and_rest, refresh=False)
        self._bar.update()
        if self._bar.disable and (now - self._last_line > LINE_SECONDS or number == self._total):
            self._last_line = now
            logger.info(f"{stage}: step {number}/{self._total}, {speed_and_rest}")

    def rest(self) -> None:
        """Leave out what passes until the next step, a model's growth for instance, where the time left is estimated."""
        self._last_step = None

    def close(self) -> None:
        """Let go of the terminal's line."""
        self._bar.close()
