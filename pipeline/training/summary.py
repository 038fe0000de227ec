"""What a run came to, for a person."""

import math
from typing import Any


def render(summary: dict[str, Any]) -> str:
    """Return the summary as a page of text."""
    growth, tokens = summary["growth"], summary["tokens"]
    losses = summary["losses"]
    lines = [
        "",
        f"{summary['family']}: {_size(growth['source'])} -> {_size(growth['target'])}, "
        f"{growth['growth']['width']} + {growth['growth']['depth']}",
        "",
        "held-out loss (nats per scored token)        loss  perplexity",
        _loss_line("  unigram frequencies (no model)", losses["unigram"]),
        _loss_line("  source", losses["source"]),
        _loss_line("  right after growth", losses["grown"]),
        _loss_line("  after training", losses["final"]),
        f"  growth: {_verdict(growth)}",
        "",
        "compute                       model FLOPs   executed FLOPs",
    ]
    for stage, flops in summary["flops_model"].items():
        note = "  (the source's own pre-training)" if stage == "source" else ""
        lines.append(f"  {stage:<24} {flops:>14.4g} {summary['flops_executed'][stage]:>16.4g}{note}")
    if summary["source_given"]:
        lines.append("  source                    not known: it came trained")
    lines += [
        "",
        f"tokens        {tokens:,} in {summary['steps']} steps, {summary['tokens_per_second']:,.0f} tokens/s",
        "peak memory   " + "; ".join(f"rank {r}: {_memory(peak)}" for r, peak in enumerate(summary["peak_memory"])),
        "",
        *(f"{name:<13} {path}" for name, path in summary["paths"].items()),
    ]
    return "\n".join(lines)


def _size(sizes: dict[str, Any]) -> str:
    return f"{sizes['num_hidden_layers']} layers x {sizes['hidden_size']} ({sizes['num_attention_heads']} heads)"


def _loss_line(label: str, loss: float) -> str:
    return f"{label:<42}{loss:>8.4f}  {math.exp(loss):>10.1f}"


def _verdict(growth: dict[str, Any]) -> str:
    moved, seen = growth["measured"]["max_logit_difference"], growth["in_training"]
    measured = (
        f"loss moved by {round(seen['loss_gap'], 4) + 0.0:+.4f}, a logit by at most {seen['max_logit_difference']:.2g} "
        f"({seen['dtype']}; {moved:.2g} in float64)"
    )
    if growth["verdict"] == "exact":
        return f"preserves the function; {measured}"
    return f"{growth['verdict']}: {'; '.join(growth['departures'])}; {measured}"


def _memory(peak: dict[str, float]) -> str:
    return ", ".join(f"{value:.2f} GiB {where.removesuffix('_gib')}" for where, value in peak.items())
