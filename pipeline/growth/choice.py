"""What `auto` comes to: an operator that is exact for the family's norms at the ratio asked for, and why."""

from data_prep.errors import UserError
from pipeline.families import Family, Sizes
from pipeline.recipe import GrowthConfig

_TOLD_APART = {"symmetry": "paired", "noise": 0.25}
"""What post-LN models need, whose exact operators copy: noiseless twins would stay twins for ever."""


def resolve(growth: GrowthConfig, family: Family, source: Sizes, target: Sizes) -> tuple[GrowthConfig, list[str]]:
    """Return the growth with `auto` replaced, and the reasons; raises UserError where nothing is exact."""
    reasons = []
    if growth.width == "auto":
        width, changes, reason = _width(family, source, target)
        if not family.pre_norm and growth.symmetry == "none":
            changes = changes | _TOLD_APART
            reason += "; its copies are told apart by paired noise"
        growth = growth.model_copy(update={"width": width, **changes})
        reasons.append(f"width: {width}, since {reason}")
    if growth.depth == "auto":
        if not family.pre_norm and target.num_hidden_layers > source.num_hidden_layers:
            raise UserError(
                f"growth.depth: auto finds no exact operator: an added layer of a post-LN model ({family.name}) normalizes "
                "again; name one that is not exact (stack is bert2BERT's), or keep num_hidden_layers"
            )
        growth = growth.model_copy(update={"depth": "interleave"})
        reasons.append("depth: interleave, since added layers that write nothing leave a pre-norm stream as it is")
    return growth, reasons


def _width(family: Family, source: Sizes, target: Sizes) -> tuple[str, dict[str, object], str]:
    old, new = source.hidden_size, target.hidden_size
    if not family.pre_norm and new % old:
        return (
            "fpi",
            {"norm_statistics": "weighted"},
            f"no operator is exact under a stock post-LN norm at {old} -> {new}, and copies under norm statistics weighted "
            "by 1/C are",
        )
    how = "zeros vanish under RMSNorm" if family.norm == "rms_norm" else "new channels at the mean vanish under LayerNorm"
    if not family.pre_norm:
        how = "whole copies keep a post-LN norm's statistics"
    if new == old:
        return "exact_aki", {}, "heads and units read as the next layer's write nothing at first and have no twins"
    return "exact_aki", {}, f"{how} at {old} -> {new}, and heads and units read as the next layer's have no twins"
