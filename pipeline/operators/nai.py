"""Neighbour attention initialization."""

from typing import Literal

import numpy as np

from pipeline.common.errors import UserError
from pipeline.operators.base import Content, MapRequest, Option, Stream, Units, WidthOperator
from pipeline.operators.options import COPYING, WEIGHTED

_NEIGHBOURS = Option(
    "neighbours",
    Literal["block", "last"],
    "block",
    "nai: the last n heads in order, or the last head n times.",
    {"block": "The last heads in order are copied.", "last": "The last head is copied again and again."},
)
_PAPER_FACTOR = Option(
    "paper_factor",
    bool,
    False,
    "nai: multiply queries and keys by (D_t / D_s)^(1/4) (NAI eq. 14), which is right for scores over sqrt(D) only.",
    "Queries and keys are multiplied by the factor of NAI's equation 14.",
)


def neighbours(request: MapRequest) -> np.ndarray:
    """NAI 3.3.1: new blocks of one head's width copy the last ones in order (figure 5), or the last one only."""
    source, target, block = request.source, request.target, request.block
    if source % block or target % block:
        raise UserError(
            f"growth.width: nai copies blocks of one head's width, {block}, and does not fit {request.what}: {source} -> "
            f"{target}; both are to be multiples of it, or take fpi, which copies any number"
        )
    blocks, extra = source // block, (target - source) // block
    # Cyclically, where more blocks are new than there are.
    reused = 1 if request.options["neighbours"] == "last" else max(1, min(extra, blocks))
    added = blocks - reused + np.arange(extra) % reused
    return np.concatenate([np.arange(source), (added[:, None] * block + np.arange(block)).reshape(-1)])


OPERATOR = WidthOperator(
    name="nai",
    summary="Whole heads and their channels are copied from neighbouring heads.",
    citation="NAI (neighbour attention initialization), 3.3.1, eq. 13-14, figure 5",
    content=lambda options, norms: Content(Stream.COPY, Units.COPY),
    pick=neighbours,
    options=(_NEIGHBOURS, _PAPER_FACTOR, *COPYING, *WEIGHTED),
    noisy=True,
)
