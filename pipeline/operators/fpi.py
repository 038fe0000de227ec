"""Function-preserving initialization."""

import numpy as np

from pipeline.common import keyed
from pipeline.operators.base import Content, MapRequest, Stream, Units, WidthOperator, in_turn
from pipeline.operators.options import COPYING, MAP, WEIGHTED


def drawn_or_in_turn(request: MapRequest) -> np.ndarray:
    """bert2BERT eq. 5-6 and 11: new indices copy the source's in turn, or uniform draws of them."""
    if request.options["map"] == "balanced":
        return in_turn(request)
    added = keyed.below(("map", request.seed, request.what), 0, request.target - request.source, request.source)
    return np.concatenate([np.arange(request.source), added])


OPERATOR = WidthOperator(
    name="fpi",
    summary="New channels, heads and units are copies of old ones, and whatever reads copies divides by their number.",
    citation="bert2BERT (Chen et al. 2022), 3.3.1, eq. 5-9",
    content=lambda options, norms: Content(Stream.COPY, Units.COPY),
    pick=drawn_or_in_turn,
    options=(MAP, *COPYING, *WEIGHTED),
)
