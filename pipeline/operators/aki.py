"""Advanced knowledge initialization."""

from pipeline.operators.base import Content, Stream, Units, WidthOperator
from pipeline.operators.fpi import drawn_or_in_turn
from pipeline.operators.options import MAP

OPERATOR = WidthOperator(
    name="aki",
    summary=(
        "As fpi, but new rows are taken from the source's next layer, which changes the function and keeps copies from "
        "learning the same."
    ),
    citation="bert2BERT (Chen et al. 2022), 3.3.2, eq. 10-12",
    content=lambda options, norms: Content(Stream.COPY, Units.COPY, next_layer=True),
    pick=drawn_or_in_turn,
    options=(MAP,),
)
