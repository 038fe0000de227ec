"""A copy behind each layer."""

import itertools

from pipeline.operators.base import DepthOperator, Options, Origin


def _origins(source: int, target: int, options: Options) -> list[Origin]:
    """LEMON: copies that add nothing right after the layer they copy, spread evenly over the stack."""
    layers = [i * source // target for i in range(target)]
    repeats = [False, *(before == here for before, here in itertools.pairwise(layers))]
    return [Origin(layer, zero_output=again, added=again) for layer, again in zip(layers, repeats, strict=True)]


OPERATOR = DepthOperator(
    name="interleave",
    summary="A copy right after each layer, adding nothing to the residual stream at first.",
    citation="LEMON (Wang et al. 2024), 4.2",
    origins=_origins,
)
