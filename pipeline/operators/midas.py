"""The middle block once more."""

from dataclasses import replace

from pipeline.operators.base import DepthOperator, Origin
from pipeline.operators.options import REPEAT_SCALE, scaled_repeats


def _origins(source: int, target: int) -> list[Origin]:
    """Gradual stacking of the middle: of n blocks, each of as many layers as are added, block ceil(n / 2) is there twice.

    Blocks are counted from the first layer on; layers that fill none stay on top. A growth to more than twice as many layers
    doubles them first, so that the source's last layer is the target's too.
    """
    if target > 2 * source:
        twice = _origins(source, 2 * source)
        return [
            replace(twice[layer.source_layer], added=twice[layer.source_layer].added or layer.added)
            for layer in _origins(len(twice), target)
        ]
    block = target - source
    first = (source // block - 1) // 2 * block if block else 0
    own = [Origin(layer) for layer in range(source)]
    repeated = [replace(layer, added=True) for layer in own[first : first + block]]
    return [*own[: first + block], *repeated, *own[first + block :]]


OPERATOR = DepthOperator(
    name="midas",
    summary="The middle block of layers once more, above itself; it has as many layers as are added.",
    citation="MIDAS (Saunshi et al. 2024, arXiv 2409.19044)",
    origins=lambda source, target, options: scaled_repeats(_origins(source, target), options),
    options=(REPEAT_SCALE,),
)
