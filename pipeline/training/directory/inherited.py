"""The ledger of a model that is the source of another run."""

from pathlib import Path
from typing import Any

from pipeline.common.config import read_json
from pipeline.common.errors import UserError
from pipeline.common.files import MISSING, irregular
from pipeline.flops.ledger import LEDGER, Ledger
from pipeline.growth.sources import checkpoint_in
from pipeline.growth.zero_checkpoint import PROGRESS


def read_inherited(directory: Path) -> Ledger | None:
    """Return the ledger of the model that `open_source` finds in `directory`; None where the model came without one.

    An exported model has it in a file of its own, a checkpoint under the key `ledger` of what it says of its run. Raises
    UserError where there is one that cannot be read.
    """
    checkpoint = checkpoint_in(directory)
    path = directory / LEDGER if checkpoint is None else checkpoint / PROGRESS
    fault = irregular(path)
    if fault == MISSING:
        return None
    try:
        if fault is not None:
            raise ValueError(fault)
        content: dict[str, Any] | None = read_json(path, "copy it again")
        if checkpoint is not None and content is not None:
            content = content.get("ledger")
        return None if content is None else Ledger.from_json(content)
    except (AttributeError, ValueError, UserError) as error:
        raise UserError(
            f"{path}: the FLOPs of the model's pre-training cannot be read ({error}); put the file back as it was written, "
            "or remove it, and they count as unknown"
        ) from None
