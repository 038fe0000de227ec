"""Data sets by their hub's name."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.errors import UserError, one_line

if TYPE_CHECKING:
    import datasets


def load_hub(task: str, wanted: str, data: Sequence[Path], *name: str) -> "datasets.DatasetDict":
    """Return the hub's data set of that name and configuration; raises UserError, which names the files to put there."""
    import datasets  # slow to import, and seldom needed

    try:
        return datasets.load_dataset(*name)
    except Exception as error:  # the library raises what its network stack does
        below = f"below {', '.join(map(str, data))}" if data else "since no --data folder is given"
        raise UserError(
            f"{task}: {wanted} are not there {below}, and the hub's {'/'.join(name)} is out of reach "
            f"({type(error).__name__}: {one_line(error)}); name the folder that holds them with --data"
        ) from None
