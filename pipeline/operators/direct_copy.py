"""bert2BERT's baseline."""

from typing import Annotated

from pydantic import Field

from pipeline.operators.base import Content, Option, Stream, Units, WidthOperator

_SHRINK = Option(
    "shrink",
    Annotated[float, Field(gt=0, le=1)],
    1.0,
    "direct_copy: below 1, a matrix that grows is W' = shrink pad(W) + I, where pad fills with zeros and I is the model's own "
    "initialization, everywhere (warmstarting's shrink-pad-perturb; .4 there).",
    "Matrices that grow are {shrink} times the source's, and random values are added everywhere.",
)

OPERATOR = WidthOperator(
    name="direct_copy",
    summary="The source's weights fill a corner of each matrix, the rest is random.",
    citation="bert2BERT (Chen et al. 2022), 4.1, DirectCopy; `shrink`: warmstarting (Mallik et al. 2024)",
    content=lambda options, norms: Content(Stream.INIT, Units.INIT),
    options=(_SHRINK,),
)
