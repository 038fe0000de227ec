"""What a run came to, for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.rows import perplexity
from pipeline.flops.counts import PARTS
from pipeline.flops.ledger import Ledger, Line
from pipeline.growth.duplicates import duplicates_warning
from pipeline.growth.token_rows import over_both
from pipeline.recipe import SOURCE_STAGE
from pipeline.runs.records import (
    CertificateRecord,
    ComparisonRecord,
    ParametersRecord,
    SummaryRecord,
    duplicates_of,
    grows,
    reasons_of,
)
from pipeline.runs.steps import missing_words
from pipeline.training.monitoring.utilization import tera


def render(summary: SummaryRecord) -> str:
    """Return the summary as a page of text."""
    growths, tokens, losses = list(filter(grows, summary["growths"])), summary["tokens"], summary["losses"]
    lines = [
        "",
        f"{summary['family']}: {_size(summary['growths'][0]['source'])}"
        + "".join(
            f" -> {_size(growth['target'])}, {growth['growth']['width']} + {growth['growth']['depth']}" for growth in growths
        )
        + ("" if growths else ", not grown"),
        "",
        "held-out loss (nats per scored token)        loss  perplexity",
        _loss_line("  unigram frequencies (no model)", losses["unigram"]),
        _loss_line("  source", losses["source"]),
        *(
            _loss_line(f"  right after growth{_number(n, growths)}", growth["in_training"]["grown_loss"])
            for n, growth in enumerate(growths, 1)
            if growth["in_training"] is not None
        ),
        _loss_line("  after training", losses["final"]),
        *(f"  growth{_number(n, growths)}: {_verdict(growth)}" for n, growth in enumerate(growths, 1)),
        *(f"  warning: {line}" for growth in growths for line in duplicates_warning(duplicates_of(growth))),
        "",
        "compute                       model FLOPs   executed FLOPs  TFLOP/s     MFU",
    ]
    ledger = Ledger.from_json(dict(summary["flops"]))
    for stage, flops in ledger.stages.items():
        # None where all its steps are missing in metrics.jsonl.
        speed = summary["speeds"].get(stage)
        note = f"{'':17}" if speed is None else f"  {tera(speed['tflops']):>7} {speed['mfu']:>7.1%}"
        note += "  (the source's own pre-training)" if stage == SOURCE_STAGE else ""
        lines.append(_flops_line(stage, flops.model_total, flops.executed_total) + note)
    if ledger.wasted:
        lines.append(_flops_line("taken again", 0, ledger.wasted) + "  (steps lost to a crash or a rewind)")
    for origin, line in ledger.inherited.items():
        lines.append(_inherited_line(origin, line))
    model, executed = ledger.parts.model, ledger.parts.executed
    lines += [
        f"  MFU: model FLOPs against {summary['peak']}",
        "",
        "compute by part               model FLOPs   executed FLOPs",
        *(_flops_line(part.replace("_", " "), model[part], executed[part]) for part in PARTS),
        "",
        *_parameters(summary.get("parameters")),
        f"tokens        {tokens:,} in {summary['steps']} steps, {summary['tokens_per_second']:,.0f} tokens/s",
        *(
            [f"  warning: metrics.jsonl lacks the steps {missing_words(gaps)}: speeds are those of the others"]
            if (gaps := summary.get("missing_steps"))
            else []
        ),
        "peak memory   " + "; ".join(f"rank {r}: {_memory(peak)}" for r, peak in enumerate(summary["peak_memory"])),
        "",
        *(f"{name:<13} {path}" for name, path in summary["paths"].items()),
    ]
    return "\n".join(lines)


def _flops_line(label: str, model: int, executed: int) -> str:
    return f"  {label:<24} {model:>14.4g} {executed:>16.4g}"


def _inherited_line(origin: str, line: Line) -> str:
    if not line.complete and not line.spent:
        return f"  {SOURCE_STAGE:<24} not known: {origin} came without a ledger"
    least = "" if line.complete else f", at least: {line.missing}"
    return f"{_flops_line(SOURCE_STAGE, line.flops.model_total, line.spent)}  (pre-training of {origin}{least})"


def _parameters(counts: ParametersRecord | None) -> list[str]:
    if counts is None:
        return []
    active = "" if counts["active"] == counts["total"] else f", of which a token meets {counts['active']:,}"
    return [f"parameters    {counts['total']:,}{active}"]


def _number(number: int, growths: Sequence[CertificateRecord]) -> str:
    """Which growth it is, where there are several."""
    return f" {number}" if len(growths) > 1 else ""


def _size(sizes: Mapping[str, Any]) -> str:
    experts = f", {sizes['num_experts_per_tok']} of {sizes['num_experts']} experts" if "num_experts" in sizes else ""
    return f"{sizes['num_hidden_layers']} layers x {sizes['hidden_size']} ({sizes['num_attention_heads']} heads{experts})"


def _loss_line(label: str, loss: float) -> str:
    return f"{label:<42}{loss:>8.4f}  {perplexity(loss):>10.1f}"


def _verdict(growth: CertificateRecord) -> str:
    moved, seen = growth["measured"]["max_logit_difference"], growth["in_training"]
    measured = (
        f"a logit moved by at most {moved:.2g} in float64"
        if seen is None
        else f"loss moved by {_signed(seen['loss_gap'])}, a logit by at most {seen['max_logit_difference']:.2g} "
        f"({seen['dtype']}; {moved:.2g} in float64{_rounding(seen)})"
    )
    over = over_both(growth)
    over += ", as the losses of source and right after growth" if over else ""
    if growth["verdict"] == "exact":
        return f"preserves the function{over}; {measured}"
    return f"{growth['verdict']}{over}: {'; '.join(one['cause'] for one in reasons_of(growth))}; {measured}"


def _rounding(seen: ComparisonRecord) -> str:
    """What the precision of training does to the source; float32 is what it is compared with."""
    if seen["dtype"] == "float32" or "rounding" not in seen:
        return ""
    rounding = seen["rounding"]
    return (
        f"; rounding to {seen['dtype']} alone moves the source's loss by {_signed(rounding['loss'])}, a logit by up to "
        f"{rounding['max_logit_difference']:.2g}"
    )


def _signed(difference: float) -> str:
    """A difference of losses, without a sign where it is nothing."""
    return f"{round(difference, 4) + 0.0:+.4f}"


def _memory(peak: dict[str, float]) -> str:
    return ", ".join(f"{value:.2f} GiB {where.removesuffix('_gib')}" for where, value in peak.items())
