"""DeepSpeed's monitors, opened for a run and not for an engine: a module for each, named as its section of the JSON."""

import importlib

from pipeline.deepspeed.monitors.monitor import Monitor


def monitor_of(section: str) -> type[Monitor]:
    """Return the monitor of a section."""
    return importlib.import_module(f"{__package__}.{section}").MONITOR
