"""bert2BERT's baseline."""

from pipeline.growth.operators.base import Content, Stream, Units, WidthOperator

OPERATOR = WidthOperator(
    name="direct_copy",
    summary="The source's weights fill a corner of each matrix, the rest is random.",
    citation="bert2BERT (Chen et al. 2022), 4.1, DirectCopy",
    content=lambda options, norms: Content(Stream.INIT, Units.INIT),
)
