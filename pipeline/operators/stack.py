"""The whole stack again."""

from pipeline.operators.base import DepthOperator, Options, Origin
from pipeline.operators.options import REPEAT_SCALE, scaled_repeats


def _origins(source: int, target: int, options: Options) -> list[Origin]:
    """bert2BERT algorithm 1, lines 3-7: the whole stack k times, then its top L_t - k L_s layers."""
    whole = target // source * source
    rest = target - whole
    layers = [i % source for i in range(whole)] + [source - rest + i for i in range(rest)]
    return scaled_repeats([Origin(layer, added=i >= source) for i, layer in enumerate(layers)], options)


OPERATOR = DepthOperator(
    name="stack",
    summary="The whole stack of layers again on top, then its upper part.",
    citation="bert2BERT (Chen et al. 2022), algorithm 1; StackBERT (Gong et al. 2019)",
    origins=_origins,
    options=(REPEAT_SCALE,),
)
