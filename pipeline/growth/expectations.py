"""What a growth is expected to do: what `auto` chose, what will be exact, what will not and why, and what will not learn."""

from pipeline.growth.duplicates import duplicates_warning, predict_duplicates
from pipeline.growth.growth_plan import GrowthPlan
from pipeline.growth.reasons import exactness, predict
from pipeline.growth.step_predictions import predict_moments, predict_steps
from pipeline.growth.token_rows import few_tokens_warning, over_both, tokens_counted


def expectations(plan: GrowthPlan) -> list[str]:
    """Say why operators were chosen, what will be exact, what will not and why, and what will not learn."""
    reasons, counts = predict(plan), tokens_counted(plan.tokens, plan.source.vocab_size)
    lines = [
        *plan.remarks,
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
