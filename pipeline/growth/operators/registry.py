"""All operators by name, found by their files."""

import importlib
import pkgutil
from pathlib import Path

from pipeline.growth.operators.base import DepthOperator, Option, WidthOperator

_FOUND = [
    module.OPERATOR
    for info in sorted(pkgutil.iter_modules([str(Path(__file__).parent)]), key=lambda info: info.name)
    if info.name not in ("registry", "__main__")
    and hasattr(module := importlib.import_module(f"pipeline.growth.operators.{info.name}"), "OPERATOR")
]

WIDTH: dict[str, WidthOperator] = {one.name: one for one in _FOUND if isinstance(one, WidthOperator)}
DEPTH: dict[str, DepthOperator] = {one.name: one for one in _FOUND if isinstance(one, DepthOperator)}

OPTIONS: dict[str, Option] = {option.name: option for one in _FOUND for option in one.options}
"""What any operator has, by key."""
