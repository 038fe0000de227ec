"""All operators by name, found by their files."""

import importlib
import pkgutil
from pathlib import Path

from pipeline.operators.base import DepthOperator, Option, WidthOperator
from pipeline.operators.upcycling import UPCYCLING

_FOUND = [
    module.OPERATOR
    for info in sorted(pkgutil.iter_modules([str(Path(__file__).parent)]), key=lambda info: info.name)
    if info.name not in ("registry", "__main__")
    and hasattr(module := importlib.import_module(f"pipeline.operators.{info.name}"), "OPERATOR")
]

WIDTH: dict[str, WidthOperator] = {one.name: one for one in _FOUND if isinstance(one, WidthOperator)}
DEPTH: dict[str, DepthOperator] = {one.name: one for one in _FOUND if isinstance(one, DepthOperator)}

OPTIONS: dict[str, Option] = {option.name: option for one in _FOUND for option in one.options} | {
    option.name: option for option in UPCYCLING
}
"""What any operator has, or a dense model that becomes a mixture, by key."""
