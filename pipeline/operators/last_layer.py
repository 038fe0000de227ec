"""The last layer again."""

from pipeline.operators.base import DepthOperator, Options, Origin


def _origins(source: int, target: int, options: Options) -> list[Origin]:
    """NAI algorithm 1: copies of the last layer on top, their output projections zero."""
    return [Origin(min(i, source - 1), zero_output=i >= source, added=i >= source) for i in range(target)]


OPERATOR = DepthOperator(
    name="last_layer",
    summary="The last layer again and again, adding nothing to the residual stream at first.",
    citation="NAI (neighbour attention initialization), algorithm 1",
    origins=_origins,
)
