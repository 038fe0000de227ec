"""The tokenizer of a model to grow, wherever it lies."""

import json
from pathlib import Path

from data_prep.errors import UserError
from data_prep.prepare import PreparedData
from pipeline.growth.sources import checkpoint_in

DATA = "data.json"
"""The file of a run directory that says where the run's data is."""


def tokenizer_directory(source: Path) -> Path:
    """Return where a source's tokenizer lies: with its run's data where it is a run's checkpoint, else in the source itself.

    Raises UserError where the run's data is gone.
    """
    checkpoint = checkpoint_in(source)
    recorded = None if checkpoint is None else checkpoint.parent.parent / DATA
    if recorded is None or not recorded.is_file():
        return source
    try:
        return PreparedData(Path(json.loads(recorded.read_text(encoding="utf-8"))["prepared"])).tokenizer.files[0].parent
    except UserError as error:
        raise UserError(f"{recorded}: names data that cannot be read ({error}); put it back") from None
