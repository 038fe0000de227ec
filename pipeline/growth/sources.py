"""Where a model to grow comes from, whatever its format."""

from pathlib import Path

from pipeline.growth.huggingface import describe_huggingface, has_weights, open_huggingface
from pipeline.growth.state import Source
from pipeline.growth.zero_checkpoint import is_zero_checkpoint, open_zero_checkpoint

LATEST = "latest"
"""The file that names the newest of the checkpoints beside it."""

CHECKPOINTS = "checkpoints"
"""The folder of a run directory that holds its checkpoints."""


def open_source(path: Path, *, foreign: bool = False, part: int = 0, parts: int = 1) -> Source:
    """Return the model in `path`: a Hugging Face directory, a checkpoint, a folder of checkpoints, or a run directory.

    Of several checkpoints it is the newest. Its files are compared with the digests that it was written with; `foreign`
    also takes one that has none. Of `parts` processes that open it together each reads its `part` of them for that.
    Raises UserError where there is none, or none that can be read.
    """
    checkpoint = checkpoint_in(path)
    if checkpoint is None:
        return open_huggingface(path)
    return open_zero_checkpoint(checkpoint, foreign=foreign, part=part, parts=parts)


def foresee_source(path: Path, *, foreign: bool = False) -> Source:
    """Return what `open_source` would, or of a directory with a config.json and no weights what that describes.

    Raises UserError where there is neither.
    """
    if checkpoint_in(path) is None and (path / "config.json").is_file() and not has_weights(path):
        return describe_huggingface(path)
    return open_source(path, foreign=foreign)


def checkpoint_in(path: Path) -> Path | None:
    """The checkpoint that `path` is or leads to; None where it is something else."""
    if is_zero_checkpoint(path):
        return path
    for folder in (path, path / CHECKPOINTS):
        if (folder / LATEST).is_file():
            return folder / (folder / LATEST).read_text(encoding="utf-8").strip()
    return None
