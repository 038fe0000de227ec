"""What each attention head of a grown model was made from."""

from dataclasses import dataclass
from typing import Literal

from pipeline.growth.plan import GrowthPlan
from pipeline.operators import Origin, Units

HeadKind = Literal["own", "copy", "next", "mixed", "random"]
"""The source's own head; a copy of one; one that reads as a head of the source's next layer does; one whose queries are the
next layer's and whose keys, shared with other heads, are not, or one that is the average of several layers'; or one that starts
from random or small values."""


@dataclass(frozen=True, slots=True)
class HeadOrigin:
    """Where the queries and keys of a target head come from."""

    kind: HeadKind
    layer: int | None
    """The source layer and head whose map it should show; None where there is none."""
    head: int | None
    duplicate: int | None
    """For a new head: the target head of the same layer that is the source's own and was copied, or would have been."""


def head_origins(plan: GrowthPlan) -> list[list[HeadOrigin]]:
    """Return the origin of each head of each target layer."""
    return [[_origin(plan, origin, head) for head in range(plan.target.num_attention_heads)] for origin in plan.layers]


def _origin(plan: GrowthPlan, layer: Origin, head: int) -> HeadOrigin:
    heads, kv_heads = plan.maps["heads"], plan.maps["kv_heads"]
    if layer.source is None:
        return HeadOrigin("random", None, None, None)
    if layer.average:
        return HeadOrigin("mixed", None, None, None)
    copied = int(heads.indices[head])
    if not heads.grows or bool(heads.own[head]):
        return HeadOrigin("own", layer.source, copied, None)
    if plan.content.units not in (Units.COPY, Units.ZERO_OUTPUT_NEXT_LAYER):
        return HeadOrigin("random", None, None, None)
    duplicate = next(i for i in range(len(heads.indices)) if heads.own[i] and int(heads.indices[i]) == copied)
    following = plan.next_layer(layer.source)
    takes_next = plan.content.next_layer or plan.content.units is Units.ZERO_OUTPUT_NEXT_LAYER
    if not takes_next or following == layer.source:
        return HeadOrigin("copy", layer.source, copied, duplicate)
    group = head * plan.target.num_key_value_heads // plan.target.num_attention_heads
    if kv_heads.grows and not bool(kv_heads.own[group]):
        return HeadOrigin("next", following, copied, duplicate)
    return HeadOrigin("mixed", None, None, duplicate)
