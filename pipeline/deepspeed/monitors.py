"""DeepSpeed's monitors, opened for a run and not for an engine."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deepspeed.monitor.config import get_monitor_config
from deepspeed.monitor.monitor import MonitorMaster

Event = tuple[str, float, int]
"""Name, value and step."""


class MonitorWriters:
    """What the sections of a configuration enable; on rank 0."""

    def __init__(self, sections: dict[str, Any]) -> None:
        """Raises what the services raise where they refuse."""
        monitors = MonitorMaster(get_monitor_config(sections))
        self._table, self._board = monitors.csv_monitor, monitors.tb_monitor
        all_of_them = (monitors.tb_monitor, monitors.wandb_monitor, monitors.csv_monitor, monitors.comet_monitor)
        self.writers = [monitor for monitor in all_of_them if monitor is not None]
        """Each has `write_events`, of a list of events."""
        self.uses_wandb = monitors.wandb_monitor is not None

    @property
    def board(self) -> Any:
        """TensorBoard's SummaryWriter, or None."""
        return None if self._board is None else self._board.summary_writer

    @property
    def table(self) -> Path | None:
        """The folder of CSV files, or None."""
        return None if self._table is None else Path(self._table.log_dir)

    @property
    def headed(self) -> list[str]:
        """The names of the CSV files that have a header, which is written before the first row of all others."""
        return self._table.filenames

    @headed.setter
    def headed(self, names: Iterable[str]) -> None:
        self._table.filenames = list(names)
