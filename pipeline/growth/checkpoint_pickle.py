"""A file of a DeepSpeed checkpoint, mapped into memory: tensors and plain values, and no code that is ever run.

Whatever else a file names is refused, whoever wrote it.
"""

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.common.errors import UserError, one_line
from pipeline.common.files import irregular


class _Fields:
    """Stands for an object of DeepSpeed's: takes its fields, and runs none of its code."""


class _Ignored:
    """Stands for an object of which nothing is read."""

    def __init__(self, *parts: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Fields, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Fields, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Fields, "deepspeed.utils.tensor_fragment.fragment_address"),
    # What training scripts save beside: their arguments, the state of random numbers.
    *(
        (_Ignored, name)
        for name in (
            "argparse.Namespace",
            "pathlib.PosixPath",
            "numpy.ndarray",
            "numpy.dtype",
            *(f"numpy.{core}.multiarray.{maker}" for core in ("core", "_core") for maker in ("_reconstruct", "scalar")),
        )
    ),
]
"""All that a checkpoint's files may hold beside tensors and plain values."""


@contextmanager
def _stand_ins_alone() -> Iterator[None]:
    """Have torch take the stand-ins, and nothing that a library of this process has allowed: its classes would be made."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            yield
    finally:
        torch.serialization.add_safe_globals(others)


def load(path: Path) -> dict[str, Any]:
    """Return what a file holds; raises UserError for one that is damaged, or names more than tensors and plain values."""
    fault = irregular(path)
    if fault is not None:
        raise UserError(f"{path}: {fault}; copy the checkpoint again, with the files of every rank")
    try:
        with _stand_ins_alone():
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        # torch's general advice stands in front.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2]
        what = f"it names {found[1]}" if found else one_line(reason)
        raise UserError(
            f"{path}: holds more than tensors and plain values ({what}), and is not opened; name a directory that "
            "save_pretrained has written"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{path}: damaged, or not a file of a checkpoint ({one_line(error)}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a {type(content).__name__}, and no file of a DeepSpeed checkpoint; copy it again")
    return content
