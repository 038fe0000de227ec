"""The operators: one file each. What is here is declared, so that reading a recipe imports no torch.

A file whose module has `OPERATOR` is found by itself; the recipe's keys, the command line, the tables of the documentation and
the report's words follow from it.
"""

from pipeline.operators.base import DepthOperator, Option, Origin, Stream, Units, WidthOperator
from pipeline.operators.registry import DEPTH, OPTIONS, WIDTH
from pipeline.operators.upcycling import UPCYCLING

__all__ = ["DEPTH", "OPTIONS", "UPCYCLING", "WIDTH", "DepthOperator", "Option", "Origin", "Stream", "Units", "WidthOperator"]
