"""An offline growth for a person: what would be done, what is promised, what came of it."""

import math
from pathlib import Path
from typing import Any

import torch

from pipeline.growth.certificate import expectations, moved_by_position
from pipeline.growth.description import describe
from pipeline.growth.memory import RankBytes, growing_bytes, rank_bytes, widest
from pipeline.growth.offline import GIB, OfflineGrowth
from pipeline.growth.probe import elements
from pipeline.growth.reading import bytes_read
from pipeline.growth.state import OptimizerState, default_value, stored_dtype
from pipeline.growth.token_rows import over_both


def listing(growth: OfflineGrowth) -> str:
    """Return what would be done: every target tensor, sizes, memory, what will be exact."""
    source, request = growth.source, growth.request
    engine, state = _engine_dtype(growth), _kept_of_each(growth.optimizer)
    lines = [f"{name}  {list(tensor.shape)}  {describe(growth.plan, name)}" for name, tensor in growth.grown.items()]
    place = "" if request.out is None else f" to {request.out}"
    graph = growth.plan.graph
    active = f", {graph.active_parameters:,} of them for each token" if graph.active_parameters < graph.parameters else ""
    read = f"read     {_stored(growth) / GIB:.3f} GiB from {request.source} ({elements(source.state):,} parameters)"
    written = f"written  {growth.bytes_written / GIB:.3f} GiB{place} ({elements(growth.grown):,} parameters{active})"
    if not growth.plan.family.trained:
        return "\n".join([*lines, "", read, written, "", expected(growth)])
    reading, kept = bytes_read(growth.grown, growth.optimizer, growth.ranks), ranks_memory(growth)
    growing = growing_bytes(kept, growth.optimizer is not None, widest(source.state, growth.grown))
    lines += [
        "",
        read,
        f"growth   into ZeRO-3 partitions: each of {growth.ranks} ranks reads up to {reading.most / GIB:.3f} GiB of that, all "
        f"of them {reading.total / GIB:.3f} GiB, holds up to {growing / GIB:.3f} GiB, and sends nothing itself: "
        "DeepSpeed broadcasts each parameter while it constructs a model, whatever its weights come from",
        written,
        f"memory   {kept.total / GIB:.3f} GiB on each of {growth.ranks} ranks under ZeRO-3, without activations: "
        f"masters and {', '.join(state)} in float32, weights and gradients in {str(engine).removeprefix('torch.')}"
        + ("" if engine is torch.float32 else ", gradients once more in float32 while they are stepped"),
    ]
    return "\n".join([*lines, "", expected(growth)])


def ranks_memory(growth: OfflineGrowth) -> RankBytes:
    """Return the bytes that a rank keeps of its elements, at most, between and during steps."""
    kept = len(_kept_of_each(growth.optimizer))
    tensors = [(math.prod(tensor.shape), kept) for tensor in growth.grown.values()]
    return rank_bytes(tensors, growth.ranks, 3, _engine_dtype(growth))


def _stored(growth: OfflineGrowth) -> int:
    """The bytes of all that is grown, as it is stored."""
    tensors = list(growth.source.state.values())
    if growth.optimizer is not None:
        entries = (growth.source.optimizer or {}).values()
        tensors += [value for entry in entries for value in entry.values() if not isinstance(value, float)]
    return sum(math.prod(tensor.shape) * stored_dtype(tensor).itemsize for tensor in tensors)


def _engine_dtype(growth: OfflineGrowth) -> torch.dtype:
    """The dtype that DeepSpeed would train in: it has no float64."""
    return torch.float32 if growth.dtype is torch.float64 else growth.dtype


def _kept_of_each(optimizer: OptimizerState | None) -> list[str]:
    """The keys of what the optimizer keeps for every element; what is one number for the whole model costs nothing.

    Elements that share a flat group are all given what one of them needs, and groups depend on the stages: this is
    the most that it comes to.
    """
    if optimizer is None:
        return ["exp_avg", "exp_avg_sq"]
    kept = []
    for key in dict.fromkeys(key for entry in optimizer.values() for key in entry):
        values = [entry.get(key, default_value(key)) for entry in optimizer.values()]
        if not all(isinstance(value, float) for value in values) or len(set(values)) > 1:
            kept.append(key)
    return kept


def expected(growth: OfflineGrowth) -> str:
    """Return what will be exact, and what will not and why."""
    lines = [*(f"source: {remark}" for remark in growth.source.remarks), *expectations(growth.plan)]
    if growth.plan.growth.optimizer_state != "grow" and growth.source.optimizer and growth.request.format == "zero3":
        lines.append("the optimizer's state: fresh; --optimizer_state grow takes the source's along")
    return "\n".join(lines)


def table(certificate: dict[str, Any], out: Path) -> str:
    """Return a certificate as a few lines."""
    measured = certificate["measured"]
    before, after = certificate["source"], certificate["target"]
    # Hugging Face's key for what the sizes call tied.
    named = {"tied": "tie_word_embeddings"}
    changed = [f"{named.get(key, key)} {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]
    changed += [f"{key} {value}" for key, value in after.items() if key not in before]
    changed += [reason["cause"] for reason in certificate["departures"] if reason["code"] == "context_changed"]
    words = over_both(certificate)
    if not words and before["vocab_size"] != after["vocab_size"]:
        words = ", over the source's vocabulary"
    moved = f"{measured['max_logit_difference']:.2g} in {measured['dtype']}, before rounding"
    far = moved_by_position(measured)
    cut = len(measured["source_layers"]) < before["num_hidden_layers"] + before.get("num_decoder_layers", 0)
    where = f"layers {measured['source_layers']} against {measured['target_layers']}" if cut else "the whole models"
    lines = [
        ("growth", f"{certificate['family']}: {', '.join(changed) or 'no size changes'}"),
        ("function", f"{certificate['verdict']}{over_both(certificate)}"),
        ("largest change of a logit", f"{moved}, of {where}"),
        *([("change by position", f"{far}, of random tokens spread over these")] if far else []),
        ("loss on random tokens", f"{measured['source_loss']:.6f} -> {measured['grown_loss']:.6f}{words}"),
        ("source digest", certificate["source_digest"]),
        ("written", f"{out} ({certificate['format']}, {certificate['dtype']})"),
    ]
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in lines)
