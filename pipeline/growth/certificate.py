"""The growth certificate: what was done, whether it preserves the function and why, and what was measured."""

from dataclasses import asdict
from typing import Any

from pipeline.families import AxisKind
from pipeline.growth.depth import adds_only_silent_layers
from pipeline.growth.plan import GrowthPlan

_ROUNDING = {"float64": 1e-6, "float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""By how much rounding alone may move a logit. Measured floors are 2e-5 in float32 and 0.3 in bfloat16."""


def departures(plan: GrowthPlan) -> list[str]:
    """Return the reasons why the grown model computes something else than its source; empty where it does not."""
    reasons = []
    residual = plan.maps[AxisKind.RESIDUAL]
    if not residual.balanced:
        reasons.append(
            "hidden channels are copied unequally often, which shifts the mean and variance that LayerNorm takes "
            f"({plan.source.hidden_size} -> {plan.target.hidden_size}, {plan.growth.width})"
        )
    if plan.growth.noise and any(axis_map.grows for axis_map in plan.maps.values()):
        reasons.append(f"noise of {plan.growth.noise:g} standard deviations lies on the new rows and columns")
    if len(plan.layers) > plan.source.num_hidden_layers:
        if not adds_only_silent_layers(plan.layers):
            reasons.append("added layers repeat the source's and change what they pass on")
        elif not plan.family.pre_norm:
            reasons.append("an added layer normalizes again, and LN(LN(x)) is not LN(x) in a post-LN model")
    return reasons


def certify(plan: GrowthPlan, measured: dict[str, Any]) -> dict[str, Any]:
    """Return the certificate as JSON-ready values; `measured` is what evaluation found before and after.

    `measured_agrees` says whether a growth that preserves the function was seen to: logits moved by no
    more than rounding in the measured dtype.
    """
    reasons = departures(plan)
    agrees = bool(reasons) or measured["max_logit_difference"] <= _ROUNDING[measured["dtype"]]
    return {
        "family": plan.family.name,
        "source": asdict(plan.source),
        "target": asdict(plan.target),
        "growth": plan.growth.model_dump(),
        "seed": plan.seed,
        "maps": {
            str(kind): {
                "source": axis_map.source_size,
                "target": len(axis_map.indices),
                "copies": [int(axis_map.counts.min()), int(axis_map.counts.max())],
                "balanced": axis_map.balanced,
            }
            for kind, axis_map in plan.maps.items()
        },
        "layers": [asdict(origin) for origin in plan.layers],
        "preserves_function": not reasons,
        "departures": reasons,
        "measured": measured,
        "measured_agrees": agrees,
    }
