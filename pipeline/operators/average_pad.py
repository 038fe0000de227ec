"""Whole copies, and the rest at their mean."""

from pipeline.operators.base import Content, Stream, Units, WidthOperator
from pipeline.operators.options import COPYING

OPERATOR = WidthOperator(
    name="average_pad",
    summary="Whole copies of the channels as often as they fit, the rest at their mean, which LayerNorm does not see.",
    citation="LEMON (Wang et al. 2024), 4.1",
    content=lambda options, norms: Content(Stream.MEAN_OF_COPIES, Units.COPY),
    options=COPYING,
)
