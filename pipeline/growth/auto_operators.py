"""What `auto` comes to: an operator that is exact for the family's norms at the ratio asked for, and why.

Where none is exact it is the one that moves logits least, as measured on trained and random models of both post-LN families
(`python -m tests.benchmarks.exactness`; docs/explanation/growth.md has the figures).
"""

from typing import NamedTuple

from pipeline.families import FFN_KEYS, Sizes
from pipeline.families.graph import Model
from pipeline.recipe import GrowthConfig
from pipeline.recipe.growth import AUTO

_UNLIKE_COPIES = {"symmetry": "paired", "noise": 0.25}
"""What post-LN models need, whose exact operators copy: without noise, copies have the same gradient for ever."""


class Choice(NamedTuple):
    """An operator, options that go with it, and why it was taken."""

    operator: str
    options: dict[str, object]
    reason: str
    copies: bool = False
    """Whether channels of the residual stream are copied."""


def resolve_auto(
    growth: GrowthConfig, model: Model, source: Sizes, target: Sizes, *, stock: bool = False
) -> tuple[GrowthConfig, list[str]]:
    """Return the growth with `auto` replaced, and the reasons, of what grows; `stock` rules weighted norms out."""
    reasons = []
    if growth.width == AUTO:
        width = _width(model, source, target, stock=stock)
        reason = width.reason
        unlike = {}
        experts = (target.num_experts or 0) > (source.num_experts or 0) > 0
        if (width.copies or experts) and growth.symmetry == "none":
            unlike = _UNLIKE_COPIES
            reason += "; its copies get noise in pairs, so that they learn different things" if width.copies else ""
            if experts:
                reasons.append("symmetry: paired, since copies of an expert learn the same without noise on what they write")
        growth = growth.model_copy(update={"width": width.operator, **width.options, **unlike})
        if _widens(source, target):
            reasons.append(f"width: {width.operator}, since {reason}")
    if growth.depth == AUTO:
        depth = _depth(model)
        growth = growth.model_copy(update={"depth": depth.operator})
        if sum(target.depths) > sum(source.depths):
            reasons.append(f"depth: {depth.operator}, since {depth.reason}")
    return growth, reasons


def _widens(source: Sizes, target: Sizes) -> bool:
    keys = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", *FFN_KEYS)
    return any(getattr(target, key) > getattr(source, key) for key in keys if getattr(source, key) is not None)


def _width(model: Model, source: Sizes, target: Sizes, *, stock: bool) -> Choice:
    old, new = source.hidden_size, target.hidden_size
    if new == old and model.norms_all_heads and target.num_attention_heads > source.num_attention_heads:
        reason = "one norm over all heads takes copies of heads alone, and new FFN units have the next layer's input weights"
        return Choice("exact_aki", {}, reason, copies=True)
    if new == old:
        return Choice("exact_aki", {}, "new heads and FFN units have the next layer's input weights and zeros as output")
    ratio = f"{old} -> {new}"
    if model.holds_means:
        how = "zeros vanish under RMSNorm" if model.stream_norm == "rms" else "new channels at the mean vanish under LayerNorm"
        return Choice("exact_aki", {}, f"{how} at {ratio}, and new heads and units have the next layer's input weights")
    norm = "post-LN norm" if model.writes_by_norms else "norm after the embeddings"
    if new % old == 0:
        units = "new heads and units have the next layer's input weights"
        reason = f"whole copies keep the statistics of a {norm} at {ratio}, and {units}"
        return Choice("exact_aki", {}, reason, copies=True)
    none = f"no operator is exact under a stock {norm} at {ratio}"
    if not stock:
        reason = f"{none}, and copies under norm statistics weighted by 1/C are"
        return Choice("fpi", {"norm_statistics": "weighted"}, reason, copies=True)
    reason = f"{none}, and of those that are not exact it moves logits least: whole copies, the rest at their mean"
    return Choice("average_pad", {}, reason, copies=True)


def _depth(model: Model) -> Choice:
    if not model.writes_by_norms:
        return Choice("interleave", {}, "added layers that add nothing leave the residual stream as it is")
    return Choice(
        "last_layer",
        {},
        "no added layer of a post-LN model is exact, as its norms normalize once more; layers on top that add nothing "
        "move logits least",
    )
