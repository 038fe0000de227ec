"""A run's curves in TensorBoard, CSV files, Weights & Biases and Comet, by DeepSpeed's own monitors and JSON sections.

The run has one set of monitors for all its models. An engine of its own would begin every CSV file and every W&B run anew
with each growth, and adds the rate of its first parameter group, frozen or not, by samples counted from the last growth.
"""

import csv
import importlib.util
import io
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.common.errors import UserError, is_full_disk
from pipeline.common.files import read_bytes, write_atomically
from pipeline.deepspeed.monitors import MonitorWriters
from pipeline.evaluation.perplexity import perplexity
from pipeline.runs.records import ROUTER_KEYS
from pipeline.training import distributed
from pipeline.training.loop.evaluate import HeldOut
from pipeline.training.monitoring.utilization import Speed

AUTO = "auto"

# What DeepSpeed imports for a section, and how it is had.
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "csv_monitor": None, "comet": "comet_ml"}
SECTIONS = tuple(_PACKAGES)

_FOLDERS = {"tensorboard": "tensorboard", "csv_monitor": "csv"}
"""Where in the run directory a section writes that names no folder."""

_TRAIN, _EVAL = "train/", "eval/"


def resolve_monitors(config: dict[str, Any], run_dir: Path, origin: str) -> None:
    """Set the folders that a DeepSpeed configuration leaves open: in the run directory, or named by it.

    Raises UserError, which begins with `origin`, for a section that is enabled and needs a package that is not installed.
    """
    for section, package in _PACKAGES.items():
        settings = config.get(section, {})
        if not settings.get("enabled"):
            continue
        if package is not None and importlib.util.find_spec(package) is None:
            raise UserError(
                f"{origin}: {section}.enabled: the Python package {package} is not installed; pip install {package}, or set "
                "it to false"
            )
        if section not in _FOLDERS:
            continue
        inside = settings.get("output_path", AUTO) in (AUTO, "", None)
        if inside:
            settings["output_path"] = str(run_dir)
        if settings.get("job_name", AUTO) == AUTO:
            settings["job_name"] = _FOLDERS[section] if inside else run_dir.resolve().name


def without_monitors(config: dict[str, Any]) -> dict[str, Any]:
    """A DeepSpeed configuration less what says who is told of the run."""
    return {key: value for key, value in config.items() if key not in SECTIONS}


class Monitors:
    """Every step and evaluation of a run, by the run's step; on rank 0, others have none."""

    @classmethod
    def opened(cls, ds_config: dict[str, Any], run_dir: Path, step: int) -> "Monitors | None":
        """Open them; a collective call."""
        monitors: list[Monitors] = []
        distributed.on_first_rank(lambda: monitors.append(cls(ds_config, run_dir, step)))
        return monitors[0] if monitors else None

    def __init__(self, ds_config: dict[str, Any], run_dir: Path, step: int) -> None:
        """Open what the configuration enables, cut back to `step`, on rank 0; raises UserError where a service refuses."""
        self._run_dir = run_dir
        self._warned = False
        if ds_config.get("wandb", {}).get("enabled"):
            self._continue_wandb()
        try:
            self._monitors = MonitorWriters({key: ds_config.get(key, {}) for key in SECTIONS})
        except Exception as error:
            # Their services' own refusals: nobody is logged in, nothing can be reached.
            service = type(error).__module__.split(".")[0]
            if service not in _PACKAGES.values():
                raise
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"{service}: {reason}; mend that, or set enabled to false in the DeepSpeed configuration") from None
        self.cut_back(step)

    def step(self, record: dict[str, Any], speed: Speed) -> None:
        """Tell of a step by what metrics.jsonl says of it."""
        values = {key: record[key] for key in ("loss", "lr", "grad_norm", "submodel_layers", "mfu")}
        values |= {key: record[key] for key in ROUTER_KEYS if key in record}
        self._write(_TRAIN, values | {"tokens_per_second": speed.tokens_per_second, "tflops": speed.tflops}, record["step"])

    def evaluation(self, step: int, heldout: HeldOut) -> None:
        """Tell of an evaluation."""
        values = {"loss": heldout.loss, "perplexity": perplexity(heldout.loss), "accuracy": heldout.accuracy}
        self._write(_EVAL, values | {"pair_loss": heldout.pair_loss, "pair_accuracy": heldout.pair_accuracy}, step)

    def cut_back(self, step: int) -> None:
        """Drop what was written of later steps, which will be taken anew.

        W&B takes no step twice, and shows the first: the same values again, but where the guard had the run go back.
        """
        begun_anew = step == 0
        board, table = self._monitors.board, self._monitors.table
        if board is not None and not (begun_anew and self._is_foreign(board.log_dir)):
            # What SummaryWriter(purge_step=...) writes, which DeepSpeed's monitor has no way to ask for.
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog

            again = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
            board.file_writer.add_event(again)
        if table is not None:
            for path in [] if begun_anew and self._is_foreign(table) else _curves(table):
                _cut_back(path, step)
            self._monitors.headed = [path.stem for path in table.glob("*.csv")]

    def close(self) -> None:
        """Write what is still in memory."""
        if self._monitors.board is not None:
            with self._though_full():
                self._monitors.board.close()
        if self._monitors.uses_wandb:
            import wandb

            wandb.finish()

    def _write(self, prefix: str, values: dict[str, float | None], step: int) -> None:
        events = [(prefix + key, value, step) for key, value in values.items() if value is not None]
        for writer in self._monitors.writers:
            # Each by itself: TensorBoard's, once it has failed, fails for good.
            with self._though_full():
                writer.write_events(events)

    @contextmanager
    def _though_full(self) -> Iterator[None]:
        """Let a run go on whose curves do not fit on the disk."""
        try:
            yield
        except OSError as error:
            if not is_full_disk(error):
                raise
            if self._monitors.table is not None:
                self._mend_table(self._monitors.table)
            if not self._warned:
                self._warned = True
                tqdm.write(f"warning: {error.strerror}: the monitors' curves have gaps from here on", file=sys.stdout)
                sys.stdout.flush()

    def _mend_table(self, table: Path) -> None:
        """Drop a last row that was cut short; a file that is left with nothing gets its header once more."""
        for path in _curves(table):
            with open(path, "r+b") as file:
                whole = file.read().rfind(b"\n") + 1
                file.truncate(whole)
            if whole == 0 and path.stem in self._monitors.headed:
                self._monitors.headed.remove(path.stem)

    def _is_foreign(self, directory: str | Path) -> bool:
        """Whether a folder may hold another run's curves: one that a person named."""
        return self._run_dir.resolve() not in Path(directory).resolve().parents

    def _continue_wandb(self) -> None:
        """Let W&B go on with the run that it knows, and write into the run directory, where the environment says nothing."""
        path = self._run_dir / "wandb" / "run_id"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, secrets.token_hex(4) + "\n")
        told = {
            "WANDB_DIR": str(self._run_dir),
            "WANDB_NAME": self._run_dir.resolve().name,
            "WANDB_RUN_ID": read_bytes(path).decode(errors="replace").strip(),
            "WANDB_RESUME": "allow",
        }
        for key, value in told.items():
            os.environ.setdefault(key, value)


def _curves(directory: Path) -> list[Path]:
    """The CSV files of a folder that monitors write."""
    own = (_TRAIN.replace("/", "_"), _EVAL.replace("/", "_"))
    return [path for path in directory.glob("*.csv") if path.name.startswith(own)]


def _cut_back(path: Path, step: int) -> None:
    """Drop the rows of later steps, and a last row that a kill cut short; raises UserError where the file is no curve."""
    text = io.StringIO()
    try:
        whole = read_bytes(path).decode().rpartition("\n")[0]
        header, *rows = csv.reader(io.StringIO(whole)) if whole else [[]]
        csv.writer(text).writerows([header, *(row for row in rows if row and int(row[0]) <= step)])
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a curve of steps and values ({error}); put it back, or move it away") from None
    write_atomically(path, text.getvalue())
