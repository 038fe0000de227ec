"""The middle block again."""

from collections.abc import Mapping
from typing import Any

from pipeline.growth.operators.base import DepthOperator, Origin
from pipeline.growth.operators.options import REPEAT_SCALE, scaled_repeats


def _origins(source: int, target: int, options: Mapping[str, Any]) -> list[Origin]:
    """MIDAS: of n blocks, each of as many layers as are added, the one in place ceil(n / 2) again, right behind itself.

    Layers that fill no block are above the last one. Where more are added than there are the whole stack is the block, which
    is repeated until there are enough.
    """
    added = target - source
    block = max(1, min(added, source))
    first = (source // block - 1) // 2 * block
    behind = first + block
    own = [Origin(layer) for layer in range(source)]
    again = [Origin(first + i % block, added=True) for i in range(added)]
    return scaled_repeats([*own[:behind], *again, *own[behind:]], options)


OPERATOR = DepthOperator(
    name="midas",
    summary="The middle block of layers, as many as are added, again right behind itself.",
    citation="MIDAS (Saunshi et al. 2024), gradual stacking of the middle",
    origins=_origins,
    options=(REPEAT_SCALE,),
)
