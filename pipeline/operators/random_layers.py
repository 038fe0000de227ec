"""New layers at random."""

from collections.abc import Mapping
from typing import Any

from pipeline.operators.base import DepthOperator, Origin


def _origins(source: int, target: int, options: Mapping[str, Any]) -> list[Origin]:
    """DirectCopy: new top layers at the model's own initialization."""
    return [Origin(i if i < source else None, added=i >= source) for i in range(target)]


OPERATOR = DepthOperator(
    name="random",
    summary="New top layers start at random.",
    citation="bert2BERT (Chen et al. 2022), 4.1, DirectCopy",
    origins=_origins,
)
