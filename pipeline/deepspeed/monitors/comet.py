"""Curves in Comet."""

from deepspeed.monitor.config import CometConfig
from deepspeed.monitor.monitor import CometMonitor

from pipeline.deepspeed.monitors.monitor import Monitor


class Comet(Monitor):
    """By DeepSpeed's writer."""

    package = "comet_ml"
    settings = CometConfig
    writer_class = CometMonitor


MONITOR = Comet
