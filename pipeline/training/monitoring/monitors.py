"""A run's curves in TensorBoard, CSV files, Weights & Biases and Comet, by DeepSpeed's own monitors and JSON sections.

The run has one set of monitors for all its models. An engine of its own would begin every CSV file and every W&B run again
with each growth, and adds the rate of its first parameter group, frozen or not, by samples counted from the last growth.
"""

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError, is_full_disk, one_line
from pipeline.deepspeed.monitors import EVAL, MONITORS, TRAIN, Monitor
from pipeline.recipe import ds_file
from pipeline.runs.records import ROUTER_KEYS
from pipeline.training import distributed
from pipeline.training.monitoring.utilization import Speed

logger = logging.getLogger(__name__)

_STEP = ("loss", "lr", "grad_norm", "submodel_layers", "mfu", *ROUTER_KEYS)
_EVALUATION = ("loss", "perplexity", "accuracy", "pair_loss", "pair_accuracy")
"""Keys of the records of which there are curves."""


def resolve_monitors(config: dict[str, Any], run_dir: Path, origin: str) -> None:
    """Set the folders that a DeepSpeed configuration leaves open: in the run directory, or named by it.

    Raises UserError, which begins with `origin`, for a section that is enabled and needs a package that is not installed.
    """
    for section in ds_file.MONITORS:
        kind = MONITORS[section]
        settings = config.get(section, {})
        if not settings.get("enabled"):
            continue
        if kind.package is not None and importlib.util.find_spec(kind.package) is None:
            raise UserError(
                f"{origin}: {section}.enabled: the Python package {kind.package} is not installed; pip install "
                f"{kind.package}, or set it to false"
            )
        if kind.folder is None:
            continue
        inside = settings.get("output_path", ds_file.AUTO) in (ds_file.AUTO, "", None)
        if inside:
            settings["output_path"] = str(run_dir)
        if settings.get("job_name", ds_file.AUTO) == ds_file.AUTO:
            settings["job_name"] = kind.folder if inside else run_dir.resolve().name


def without_monitors(config: Mapping[str, Any]) -> dict[str, Any]:
    """A DeepSpeed configuration without what says where the run's curves go."""
    return {key: value for key, value in config.items() if key not in ds_file.MONITORS}


class Monitors:
    """Every step and evaluation of a run, by the run's step."""

    @classmethod
    def opened(cls, ds_config: Mapping[str, Any], run_dir: Path, step: int) -> "Monitors":
        """Open what a configuration enables, cut back to `step`; a collective call: on ranks but the first there are none.

        Raises UserError where a service refuses.
        """
        monitors: list[Monitor] = []

        def work() -> None:
            for section in ds_file.MONITORS:
                if ds_config.get(section, {}).get("enabled"):
                    monitors.append(_opened(MONITORS[section], ds_config[section], run_dir))
            for monitor in monitors:
                monitor.cut_back(step)

        distributed.on_first_rank(work)
        return cls(monitors)

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self._monitors = monitors
        self._warned = False

    def step(self, record: Mapping[str, Any], speed: Speed) -> None:
        """Write of a step what metrics.jsonl says of it, and its speed."""
        of_speed = {"tokens_per_second": speed.tokens_per_second, "tflops": speed.tflops}
        self._write(TRAIN, {key: record.get(key) for key in _STEP} | of_speed, record["step"])

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Write of an evaluation what eval.jsonl says of it."""
        self._write(EVAL, {key: record.get(key) for key in _EVALUATION}, record["step"])

    def close(self) -> None:
        """Write what is still in memory."""
        for monitor in self._monitors:
            with self._though_full():
                monitor.close()

    def _write(self, prefix: str, values: dict[str, float | None], step: int) -> None:
        events = [(prefix + key, value, step) for key, value in values.items() if value is not None]
        for monitor in self._monitors:
            # Each by itself: TensorBoard's writer, once it has failed, fails for good.
            with self._though_full():
                monitor.write(events)

    @contextmanager
    def _though_full(self) -> Iterator[None]:
        """Let a run go on whose curves do not fit on the disk."""
        try:
            yield
        except OSError as error:
            if not is_full_disk(error):
                raise
            for monitor in self._monitors:
                monitor.repair()
            if not self._warned:
                self._warned = True
                logger.warning(f"{error.strerror}: the monitors' curves have gaps from here on")


def _opened(kind: type[Monitor], settings: Mapping[str, Any], run_dir: Path) -> Monitor:
    try:
        return kind(kind.settings(**settings), run_dir)
    except Exception as error:
        # A service's own refusal: nobody is logged in, nothing can be reached.
        service = type(error).__module__.split(".")[0]
        if service != kind.package:
            raise
        reason = one_line(error, None).rstrip(".")
        raise UserError(f"{service}: {reason}; correct that, or set enabled to false in the DeepSpeed configuration") from None
