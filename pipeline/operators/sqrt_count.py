"""Copies of h / sqrt(C)."""

from pipeline.operators.base import Content, Stream, Units, WidthOperator
from pipeline.operators.options import COPYING

OPERATOR = WidthOperator(
    name="sqrt_count",
    summary="Copies whose size is divided by the square root of their number, so that RMSNorm finds the same mean square.",
    citation="this project",
    content=lambda options, norms: Content(Stream.SQRT_COPY, Units.COPY),
    options=COPYING,
)
