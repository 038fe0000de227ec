"""What a growth certificate says, in words for a reader who has not read the papers."""

from collections.abc import Mapping
from typing import Any

from pipeline.operators import DEPTH, UPCYCLING, WIDTH
from pipeline.recipe import GrowthConfig

VERDICTS = {
    "exact": "preserves the function: by rule the grown model computes what its source computes, before it is trained on",
    "approximate": "approximate: the operator would preserve the function, and cannot at these sizes or in this family",
    "inexact by design": (
        "changes the function on purpose: the operator or an option gives up the source's output for a better start"
    ),
}


def options(growth: dict[str, Any]) -> list[tuple[str, str]]:
    """Return each option of a growth that makes a difference, and what it does."""
    found = []
    operators = [WIDTH.get(growth["width"]), DEPTH.get(growth["depth"])]
    for option in [*(each for one in operators if one is not None for each in one.options), *UPCYCLING]:
        # A certificate of an earlier version has none of the newer keys.
        value = growth.get(option.name, option.default)
        if isinstance(option.effect, Mapping):
            told = option.effect.get(value)
        else:
            told = option.effect.format(**growth) if value != option.default else None
        if told:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            found.append((option.name if value is True else f"{option.name}: {shown}", told))
    if growth["positions"] == "interpolate":
        found.append(("positions: interpolate", "The position table is stretched over the longer one."))
    added = GrowthConfig(added=growth.get("added", {})).added
    found += [("added", f"{told[0].upper()}{told[1:]}.") for told in added.described]
    return found


def rounding(dtype: str) -> str:
    """Return by how much rounding moves a logit in a dtype, in words."""
    return {
        "float64": "rounding alone moves a logit by about 1e\N{NON-BREAKING HYPHEN}14",
        "float32": "rounding alone moves a logit by about 1e\N{NON-BREAKING HYPHEN}5",
        "bfloat16": "rounding alone moves a logit by some hundredths up to some tenths",
        "float16": "rounding alone moves a logit by some thousandths up to some hundredths",
    }.get(dtype, "rounding alone moves logits a little")
