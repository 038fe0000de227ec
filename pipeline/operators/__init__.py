"""The operators: one file each. What is here is declared, so that reading a recipe imports no torch.

A file whose module has `OPERATOR` is found by itself; the recipe's keys, the command line, the tables of the documentation and
the report's words follow from it.
"""

import importlib
import pkgutil

from pipeline.operators.base import DepthOperator, Option, Origin, Stream, Units, WidthOperator
from pipeline.operators.upcycling import UPCYCLING

__all__ = ["DEPTH", "OPTIONS", "UPCYCLING", "WIDTH", "DepthOperator", "Option", "Origin", "Stream", "Units", "WidthOperator"]

_FOUND = [
    module.OPERATOR
    for name in sorted(info.name for info in pkgutil.iter_modules(__path__))
    if name != "__main__" and hasattr(module := importlib.import_module(f"{__name__}.{name}"), "OPERATOR")
]

WIDTH: dict[str, WidthOperator] = {one.name: one for one in _FOUND if isinstance(one, WidthOperator)}
DEPTH: dict[str, DepthOperator] = {one.name: one for one in _FOUND if isinstance(one, DepthOperator)}

OPTIONS: dict[str, Option] = {option.name: option for one in _FOUND for option in one.options} | {
    option.name: option for option in UPCYCLING
}
"""What any operator has, or a dense model that becomes a mixture, by key."""
