"""Grow pre-trained language models and train them on, under DeepSpeed.

`grow` is the Python API: `from pipeline import grow`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from pipeline.api import GrownModel, grow
    from pipeline.common.errors import UserError

_MODULES = {"GrownModel": "pipeline.api", "UserError": "pipeline.common.errors", "grow": "pipeline.api"}

__all__ = ["GrownModel", "UserError", "grow"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: this package itself imports on any Python 3, at once and with nothing installed."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
