"""What a growth is expected to do, and its certificate: what was done, whether it preserves the function, what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.common.keyed import DRAWS
from pipeline.families import context_of, sizes_of
from pipeline.growth.duplicates import duplicates_warning, predict_duplicates
from pipeline.growth.growth_plan import GrowthPlan
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.growth.step_predictions import predict_moments, predict_steps
from pipeline.growth.token_rows import few_tokens_warning, over_both, tokens_counted

_ROUNDING = {"float64": 1e-11, "float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""By how much rounding alone may move a logit. Measured floors are 1e-14 in float64, 2e-5 in float32, 0.3 in bfloat16."""

_SENSITIVE = 1e-13
"""In float64, by what share of its sensitivity rounding may also move a logit: measured shares are 3e-16 to 9e-16, of GPT-2,
Llama, Granite, Gemma-2, and of T5, whose steep softmaxes make 2e-11 of it at 256 channels."""

_LOGIT = 10.0
"""The largest logit for which these bounds hold; they grow with larger ones, as rounding does (GPT-2's reach -130)."""


def expectations(plan: GrowthPlan) -> list[str]:
    """Say why operators were chosen, what will be exact, what will not and why, and what will not learn."""
    reasons, counts = predict(plan), tokens_counted(plan.tokens, plan.source.vocab_size)
    lines = [
        *plan.form.remarks,
        *plan.choices,
        f"function: {exactness(reasons)}{over_both({'tokenizers': plan.tokenizer, 'tokens': counts})}",
        *(f"  {reason.cause}" for reason in reasons),
    ]
    lines += [f"warning: {line}" for line in duplicates_warning(predict_duplicates(plan))]
    lines += [f"warning: {line}" for line in (few_tokens_warning(counts) if plan.tokenizer is not None else [])]
    lines += plan.growth.added.described
    if plan.growth.added.steps and plan.graph.parameters == plan.stored_graph.parameters:
        lines.append("  this growth adds nothing: that is the rate of what an earlier one added and had not finished, if any")
    if plan.growth.optimizer_state == "grow":
        causes = predict_moments(plan)
        lines += [f"the optimizer's state: {'approximate' if causes else 'exact'}", *(f"  {cause}" for cause in causes)]
        lines += [f"steps: {cause}" for cause in predict_steps(plan)]
    return lines


def certify(
    plan: GrowthPlan,
    source_path: str,
    source_digest: str,
    measured: Mapping[str, Any],
    in_training: Mapping[str, Any] | None = None,
    *,
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the certificate as JSON-ready values.

    `measured` is what a probe in float64 found before and after, `in_training` the same of the engine that trains the
    target on, `remarks` what there is to say of how the source was read. `measured_agrees` says whether a growth
    predicted to be exact was seen to be: logits moved by no more than rounding in the dtype of each.
    """
    reasons = predict(plan)
    found = exactness(reasons)
    layers = [asdict(origin) for origin in plan.layers]
    seen = [measured] if in_training is None else [measured, in_training]
    return {
        "family": plan.family.name,
        "source_path": source_path,
        "source_digest": source_digest,
        "remarks": [*remarks, *plan.form.remarks],
        "source": sizes_of(plan.form.source).present,
        "target": plan.target.present,
        "context": context_of(plan.config),
        "growth": plan.growth.model_dump(),
        "choices": plan.choices,
        "seed": plan.seed,
        "draws": DRAWS,
        "maps": {
            port: {
                "source": axis_map.source_size,
                "target": len(axis_map.indices),
                "copies": [int(axis_map.counts.min()), int(axis_map.counts.max())],
                "balanced": axis_map.balanced,
            }
            for port, axis_map in plan.maps.items()
        },
        "tokens": tokens_counted(plan.tokens, plan.source.vocab_size),
        "tokenizers": None if plan.tokenizer is None else plan.tokenizer.record(),
        # A layer whose output is zero at first is `silent` here.
        "layers": [{"silent" if key == "zero_output" else key: value for key, value in layer.items()} for layer in layers],
        "upcycling": plan.form.record(),
        "verdict": found,
        "departures": [asdict(reason) for reason in reasons],
        "duplicates": predict_duplicates(plan),
        "optimizer": plan.optimizer,
        "moments_departures": predict_moments(plan) if plan.growth.optimizer_state == "grow" else None,
        "steps_departures": predict_steps(plan) if plan.growth.optimizer_state == "grow" else None,
        "measured": dict(measured),
        "in_training": None if in_training is None else dict(in_training),
        "measured_agrees": found is not Exactness.EXACT or all(_is_rounding(one) for one in seen),
    }


def moved_by_position(measured: Mapping[str, Any]) -> str:
    """Return by how much logits move at more distant positions, in words; empty where the target attends as its source."""
    found = measured.get("by_position") or []
    return ", ".join(
        f"not measured up to position {one['positions'] - 1}, which takes too long"
        if one["max_logit_difference"] is None
        else f"{one['max_logit_difference']:.2g} up to position {one['positions'] - 1}"
        for one in found
    )


def _is_rounding(seen: Mapping[str, Any]) -> bool:
    scale = max(1.0, seen.get("max_logit", 0.0) / _LOGIT)
    return seen["max_logit_difference"] <= max(_ROUNDING[seen["dtype"]] * scale, _SENSITIVE * seen.get("sensitivity", 0.0))
