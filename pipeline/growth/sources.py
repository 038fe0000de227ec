"""Where a model to grow comes from, whatever its format."""

from pathlib import Path

from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.state import Source
from pipeline.growth.zero_checkpoint import is_zero_checkpoint, open_zero_checkpoint

LATEST = "latest"
"""The file that names the newest of the checkpoints beside it."""

CHECKPOINTS = "checkpoints"
"""The folder of a run directory that holds its checkpoints."""


def open_source(path: Path) -> Source:
    """Return the model in `path`: a Hugging Face directory, a checkpoint, a folder of checkpoints, or a run directory.

    Of several checkpoints it is the newest. Raises UserError where there is none, or none that can be read.
    """
    checkpoint = _checkpoint_in(path)
    return open_huggingface(path) if checkpoint is None else open_zero_checkpoint(checkpoint)


def _checkpoint_in(path: Path) -> Path | None:
    """The checkpoint that `path` is or leads to; None where it is something else."""
    if is_zero_checkpoint(path):
        return path
    for folder in (path, path / CHECKPOINTS):
        if (folder / LATEST).is_file():
            return folder / (folder / LATEST).read_text(encoding="utf-8").strip()
    return None
