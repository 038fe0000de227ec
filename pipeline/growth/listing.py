"""An offline growth for a person: what would be done, what is promised, what came of it."""

import math
from pathlib import Path
from typing import Any

import torch

from pipeline.growth.description import describe
from pipeline.growth.exactness import predict, verdict
from pipeline.growth.offline import OfflineGrowth
from pipeline.growth.plan import GrowthPlan
from pipeline.growth.probe import elements
from pipeline.growth.state import Rows

_GIB = 2**30


def listing(growth: OfflineGrowth) -> str:
    """Return what would be done: every target tensor, sizes, memory, what will be exact."""
    source, request = growth.source, growth.request
    lines = [f"{name}  {list(tensor.shape)}  {describe(growth.plan, name)}" for name, tensor in growth.grown.items()]
    stored = sum(math.prod(tensor.shape) * _stored(tensor).itemsize for tensor in source.state.values())
    lines += [
        "",
        f"read     {stored / _GIB:.3f} GiB from {request.source} ({elements(source.state):,} parameters)",
        f"written  {growth.bytes_written / _GIB:.3f} GiB to {request.out} ({elements(growth.grown):,} parameters)",
    ]
    if request.format == "zero3":
        # fp32 master, two moments, and the weight in the engine's dtype.
        needed = elements(growth.grown) * (4 + 8 + growth.dtype.itemsize) / request.world_size
        lines.append(
            f"memory   {needed / _GIB:.3f} GiB on each of {request.world_size} ranks under ZeRO-3: master, moments and "
            f"{str(growth.dtype).removeprefix('torch.')} weights"
        )
    return "\n".join([*lines, "", promise(growth.plan)])


def promise(plan: GrowthPlan) -> str:
    """Return what will be exact, and what will not and why."""
    departures = predict(plan)
    lines = [f"function: {verdict(departures)}", *(f"  {departure.cause}" for departure in departures)]
    return "\n".join([*plan.choices, *lines])


def table(certificate: dict[str, Any], out: Path) -> str:
    """Return a certificate as a few lines."""
    measured = certificate["measured"]
    sizes = [
        f"{certificate[side]['num_hidden_layers']} layers x {certificate[side]['hidden_size']} "
        f"({certificate[side]['num_attention_heads']} heads)"
        for side in ("source", "target")
    ]
    cut = len(measured["source_layers"]) < certificate["source"]["num_hidden_layers"]
    where = f"layers {measured['source_layers']} against {measured['target_layers']}" if cut else "the whole models"
    lines = [
        ("growth", f"{certificate['family']}: {sizes[0]} -> {sizes[1]}"),
        ("function", certificate["verdict"]),
        ("largest change of a logit", f"{measured['max_logit_difference']:.2g}, in {measured['dtype']}, of {where}"),
        ("loss on random tokens", f"{measured['source_loss']:.6f} -> {measured['grown_loss']:.6f}"),
        ("source digest", certificate["source_digest"]),
        ("written", f"{out} ({certificate['format']}, {certificate['dtype']})"),
    ]
    if not certificate["measured_agrees"]:
        lines.append(("FAULT", "the growth should be exact and is not; please report it"))
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in lines)


def _stored(tensor: Rows) -> torch.dtype:
    return getattr(tensor, "stored", torch.float32)
