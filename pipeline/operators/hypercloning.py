"""HyperCloning."""

import numpy as np

from pipeline.common.errors import UserError
from pipeline.operators.base import Content, MapRequest, Stream, Units, WidthOperator
from pipeline.operators.options import COPYING, WEIGHTED


def whole(request: MapRequest) -> np.ndarray:
    """The whole axis again, an integer number of times."""
    source, target = request.source, request.target
    if target % source:
        raise UserError(
            f"growth.width: hypercloning repeats whole axes, and does not fit {request.what}: {source} -> {target}; choose a "
            f"multiple of {source}, or fpi, which copies any number"
        )
    return np.arange(target) % source


OPERATOR = WidthOperator(
    name="hypercloning",
    summary="The whole source side by side, as often as the target is a multiple of it.",
    citation="HyperCloning (Samragh et al. 2024), 3.1",
    content=lambda options, norms: Content(Stream.COPY, Units.COPY),
    pick=whole,
    options=(*COPYING, *WEIGHTED),
)
