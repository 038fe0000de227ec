"""What other tools leave around a DeepSpeed checkpoint: transformers' Trainer, accelerate, DeepSpeed alone.

The Trainer writes `output_dir/checkpoint-N/global_stepN`: its tag directory holds DeepSpeed's files alone, and config.json,
the tokenizer and trainer_state.json lie in `checkpoint-N`. accelerate and DeepSpeed alone write no config.json.
"""

import math
import re
from pathlib import Path
from typing import Any

from data_prep.tokenizers.files import MODEL_CONFIG as CONFIG
from pipeline.common.config import read_json
from pipeline.common.errors import UserError
from pipeline.common.files import MISSING, irregular

TRAINER_STATE = "trainer_state.json"

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def newest_of_trainer(output_dir: Path) -> Path | None:
    """Return the checkpoint with the highest number in an output_dir of transformers' Trainer; None where there is none."""
    found = {path: _CHECKPOINT.fullmatch(path.name) for path in output_dir.glob("checkpoint-*") if path.is_dir()}
    numbers = {path: int(match[1]) for path, match in found.items() if match is not None}
    return max(numbers, key=numbers.__getitem__, default=None)


def config_of(tag: Path, given: Path | None = None) -> Path:
    """Return the config.json of the model in a checkpoint's tag directory: the given one, its own, or that one folder up.

    `given` is the file, or a directory that holds it. Raises UserError where there is none.
    """
    if given is not None:
        path = given / CONFIG if given.is_dir() else given
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; source.config (launch/grow.py: --config) is the model's config.json, or a directory "
                "that holds it"
            )
        return path
    for path in (tag / CONFIG, tag.absolute().parent / CONFIG):
        fault = irregular(path)
        if fault is None:
            return path
        if fault != MISSING:
            raise UserError(f"{path}: {fault}; copy it again")
    raise UserError(
        f"{tag}: a DeepSpeed checkpoint with no {CONFIG} in it or one folder up, so its model is not known; add "
        f"source.config=DIR (launch/grow.py: --config DIR), the model's {CONFIG} or a directory that holds it"
    )


def trainer_remarks(directory: Path) -> tuple[str, ...]:
    """Return what the Trainer says of its training beside a model, as a remark; nothing where it is not the Trainer's."""
    path = directory / TRAINER_STATE
    fault = irregular(path)
    if fault == MISSING:
        return ()
    try:
        if fault is not None:
            raise UserError(f"{path}: {fault}")
        state = read_json(path, "copy it again")
    except UserError as error:
        return (f"a checkpoint of transformers' Trainer, at a step that is not known: {error}",)
    step, last = state.get("global_step"), state.get("max_steps")
    remark = [f"a checkpoint of transformers' Trainer at step {step} of {last}", *_learning_rate(state.get("log_history"))]
    return (", ".join(remark),)


def _learning_rate(history: Any) -> list[str]:
    """The last learning rate that was logged; it is logged every `logging_steps`, not at every step."""
    records = [record for record in history if isinstance(record, dict)] if isinstance(history, list) else []
    rates = [(record.get("learning_rate"), record.get("step")) for record in records]
    logged = [(rate, step) for rate, step in rates if isinstance(rate, float) and math.isfinite(rate) and type(step) is int]
    return [f"learning rate {logged[-1][0]:.4g} (logged at step {logged[-1][1]})"] if logged else []
