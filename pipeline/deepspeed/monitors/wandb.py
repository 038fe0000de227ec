"""Curves in Weights & Biases, which takes no step twice and shows the first.

What a run that goes on takes again are the same values, but where the guard had it go back.
"""

import os
import secrets
from pathlib import Path
from typing import Any

from deepspeed.monitor.config import WandbConfig
from deepspeed.monitor.monitor import WandbMonitor

from pipeline.common.files import read_bytes, write_atomically
from pipeline.deepspeed.monitors.monitor import Monitor


class Wandb(Monitor):
    """By DeepSpeed's writer; one run of W&B's for all models of a run, however often that is started."""

    package = "wandb"
    settings = WandbConfig
    writer_class = WandbMonitor

    def __init__(self, settings: Any, run_dir: Path) -> None:
        # What the environment says comes first.
        for key, value in self._variables(run_dir).items():
            os.environ.setdefault(key, value)
        super().__init__(settings, run_dir)

    @staticmethod
    def _variables(run_dir: Path) -> dict[str, str]:
        """By which W&B goes on with the run that it knows, and writes into the run directory."""
        path = run_dir / "wandb" / "run_id"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, secrets.token_hex(4) + "\n")
        return {
            "WANDB_DIR": str(run_dir),
            "WANDB_NAME": run_dir.resolve().name,
            "WANDB_RUN_ID": read_bytes(path).decode(errors="replace").strip(),
            "WANDB_RESUME": "allow",
        }

    def close(self) -> None:
        """End the run there."""
        import wandb

        wandb.finish()


MONITOR = Wandb
