"""The growth certificate: what was done, whether it preserves the function and why, and what was measured."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.growth.exactness import Verdict, predict, verdict
from pipeline.growth.plan import GrowthPlan

_ROUNDING = {"float64": 1e-12, "float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""By how much rounding alone may move a logit. Measured floors are 2e-5 in float32 and 0.3 in bfloat16."""

_FLOAT32_NORM = 1e-5
"""The same in float64 where norms compute in float32 whatever they are given (RMSNorm in Hugging Face's classes)."""


def certify(plan: GrowthPlan, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the certificate as JSON-ready values; `measured` is what was found before and after.

    `measured_agrees` says whether a growth predicted to be exact was seen to be: logits moved by no more than rounding
    in the measured dtype; None where nothing was measured.
    """
    departures = predict(plan)
    found = verdict(departures)
    moved = measured.get("max_logit_difference")
    agrees = None if moved is None else found is not Verdict.EXACT or moved <= _rounding(plan, measured["dtype"])
    return {
        "family": plan.family.name,
        "source": asdict(plan.source),
        "target": asdict(plan.target),
        "growth": plan.growth.model_dump(),
        "choices": plan.choices,
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
        "verdict": found,
        "departures": [departure.cause for departure in departures],
        "measured": dict(measured),
        "measured_agrees": agrees,
    }


def _rounding(plan: GrowthPlan, dtype: str) -> float:
    if dtype == "float64" and plan.family.norm == "rms_norm":
        return _FLOAT32_NORM
    return _ROUNDING[dtype]
