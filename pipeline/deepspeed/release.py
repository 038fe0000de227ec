"""The releases of DeepSpeed that this package was written for."""

from collections.abc import Iterable
from typing import Any

from packaging.version import Version

from pipeline.common.errors import UserError

WRITTEN_FOR = "0.19.8"


def check_release(installed: str, names: Iterable[tuple[Any, str]]) -> None:
    """Raise UserError where the installed release is not one that this package knows, or lacks one of these (holder, name).

    What is replaced under a name that DeepSpeed no longer uses has no effect, and no error is raised then.
    """
    known, found = Version(WRITTEN_FOR), Version(installed)
    instead = f"install deepspeed {WRITTEN_FOR}"
    if found < known or found.release[:2] != known.release[:2]:
        raise UserError(
            f"deepspeed {installed}: its internals, by which growth fills an engine, are known of {WRITTEN_FOR}; {instead}"
        )
    lacking = [f"{holder.__name__}.{name}" for holder, name in names if not hasattr(holder, name)]
    if lacking:
        raise UserError(f"deepspeed {installed}: has no {', '.join(lacking)}, which training needs; {instead}")
