"""What `auto` comes to: an operator that is exact for the family's norms at the ratio asked for, and why.

Where none is exact it is the one that moves logits least, as measured on trained and random models of both post-LN families
(`python -m tests.benchmarks.exactness`; docs/explanation/growth.md has the figures).
"""

from pipeline.families import FFN_KEYS, Sizes
from pipeline.families.graph import Model
from pipeline.recipe import GrowthConfig
from pipeline.recipe.growth import AUTO

_UNLIKE_COPIES = {"symmetry": "paired", "noise": 0.25}
"""What post-LN models need, whose exact operators copy: without noise, copies have the same gradient for ever."""


_UNITS = "new heads and FFN units copy the next layer's input weights and write nothing at first"

_DEPTHS = {
    False: ("interleave", "added layers write nothing at first, and leave the residual stream as it is"),
    True: (
        "last_layer",
        "each added layer of a post-LN model normalizes once more, so that none is exact; layers on top that write nothing "
        "move logits least",
    ),
}
"""The operator and the reason, by whether norms write the residual stream."""


def resolve_auto(
    growth: GrowthConfig, model: Model, source: Sizes, target: Sizes, *, stock: bool = False
) -> tuple[GrowthConfig, list[str]]:
    """Return the growth with `auto` replaced, and the reasons, of what grows; `stock` rules weighted norms out."""
    reasons = []
    if growth.width == AUTO:
        operator, reason, copies = _width(model, source, target, stock=stock)
        options: dict[str, object] = {"norm_statistics": "weighted"} if operator == "fpi" else {}
        experts = (target.num_experts or 0) > (source.num_experts or 0) > 0
        if (copies or experts) and growth.symmetry == "none":
            options |= _UNLIKE_COPIES
            reason += "; its copies get noise in pairs, so that they learn different things" if copies else ""
            if experts:
                reasons.append("symmetry: paired, since copies of an expert learn the same without noise on what they write")
        growth = growth.model_copy(update={"width": operator, **options})
        keys = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", *FFN_KEYS)
        if any(getattr(target, key) > getattr(source, key) for key in keys if getattr(source, key) is not None):
            reasons.append(f"width: {operator}, since {reason}")
    if growth.depth == AUTO:
        operator, reason = _DEPTHS[model.writes_by_norms]
        growth = growth.model_copy(update={"depth": operator})
        if sum(target.depths) > sum(source.depths):
            reasons.append(f"depth: {operator}, since {reason}")
    return growth, reasons


def _width(model: Model, source: Sizes, target: Sizes, *, stock: bool) -> tuple[str, str, bool]:
    """Return the operator, why it was taken, and whether it copies channels of the residual stream, or heads under one norm."""
    old, new = source.hidden_size, target.hidden_size
    if new == old and model.norms_all_heads and target.num_attention_heads > source.num_attention_heads:
        units = "new FFN units copy the next layer's input weights and write nothing at first"
        return "exact_aki", f"under one norm over all heads only copies of heads are exact, and {units}", True
    if new == old:
        return "exact_aki", _UNITS, False
    ratio = f"{old} -> {new}"
    if model.holds_means:
        held = (
            "are zero, for which RMSNorm is rescaled"
            if model.stream_norm == "rms"
            else "hold the mean, which LayerNorm subtracts"
        )
        return "exact_aki", f"it is exact at {ratio}: new channels {held}, and {_UNITS}", False
    norm = "post-LN norm" if model.writes_by_norms else "norm after the embeddings"
    if new % old == 0:
        return "exact_aki", f"it is exact at {ratio}: whole copies keep the statistics of a {norm}, and {_UNITS}", True
    none = f"no operator is exact under a stock {norm} at {ratio}"
    if not stock:
        return "fpi", f"{none}; copies are, where norms weigh each channel by 1/C, C being how often it is copied", True
    return "average_pad", f"{none}; whole copies, with the other channels at their mean, move logits least", True
