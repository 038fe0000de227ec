"""Where a model to grow comes from, whatever its format."""

from pathlib import Path

from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.state import Source


def open_source(path: Path) -> Source:
    """Return the model in `path`; raises UserError where there is none, or none that can be read."""
    return open_huggingface(path)
