"""New layers at random."""

from pipeline.operators.base import DepthOperator, Options, Origin


def _origins(source: int, target: int, options: Options) -> list[Origin]:
    """DirectCopy: new top layers at the model's own initialization."""
    return [Origin(i if i < source else None, added=i >= source) for i in range(target)]


OPERATOR = DepthOperator(
    name="random",
    summary="New top layers start at random.",
    citation="bert2BERT (Chen et al. 2022), 4.1, DirectCopy",
    origins=_origins,
)
