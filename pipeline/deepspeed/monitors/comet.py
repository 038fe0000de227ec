"""Curves in Comet."""

from pathlib import Path
from typing import Any

from deepspeed.monitor.config import CometConfig
from deepspeed.monitor.monitor import CometMonitor

from pipeline.deepspeed.monitors.monitor import Monitor


class Comet(Monitor):
    """By DeepSpeed's writer."""

    package = "comet_ml"
    settings = CometConfig

    def __init__(self, settings: Any, run_dir: Path) -> None:
        super().__init__(settings, run_dir)
        self.writer = CometMonitor(settings)


MONITOR = Comet
