"""The exact rule of each norm, with units of the next layer."""

from pipeline.operators.base import Content, Options, Stream, StreamNorms, Units, WidthOperator
from pipeline.operators.options import COPYING


def _content(options: Options, norms: StreamNorms) -> Content:
    if norms.write:
        return Content(Stream.COPY, Units.ZERO_OUTPUT_NEXT_LAYER)
    return Content(Stream.MEAN if norms.kind == "layer" else Stream.ZERO, Units.ZERO_OUTPUT_NEXT_LAYER)


OPERATOR = WidthOperator(
    name="exact_aki",
    summary=(
        "Exact at any ratio under most norms: new channels hold what the norm does not see; new heads and units read as the "
        "next layer's and write nothing at first."
    ),
    citation="this project; rows of the next layer as in bert2BERT 3.3.2",
    content=_content,
    options=COPYING,
)
