"""A state a few rows at a time, so that no large tensor is ever whole in memory."""

import math
import threading
from collections.abc import Iterator

import torch

from pipeline.common.errors import UserError
from pipeline.common.heartbeat import beat
from pipeline.growth.state import Rows

CONSTRUCTING = threading.RLock()
"""Held while DeepSpeed's zero.Init stands in for torch's constructors, in the whole process, and by threads that read rows
beside that: they would get tensors of the model's dtype, on its device."""

CHUNK_ELEMENTS = 1 << 22
"""Most elements computed at once for a device, but for a row that is longer."""

HOST_CHUNK_ELEMENTS = 1 << 20
"""The same where values are read, compared or written on the host: each pass over them finds them in its caches, and the
allocator gives the next chunk the memory of the last, where it maps new pages for larger ones."""


def row_chunks(
    tensor: Rows, elements: int | None = None, dtype: torch.dtype | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (first row, rows) from the first row to the last, at most so many elements at a time, or HOST_CHUNK_ELEMENTS.

    Where the tensor is one that is stored in `dtype`, its rows come as they are stored, of that dtype.
    """
    elements = HOST_CHUNK_ELEMENTS if elements is None else elements
    stored = passed_on(tensor)
    step = max(1, elements // max(1, math.prod(tensor.shape[1:])))
    for start in range(0, tensor.shape[0], step):
        stop = min(start + step, tensor.shape[0])
        beat()
        yield start, tensor.rows(start, stop) if stored is None or stored.dtype is not dtype else stored[start:stop]


def passed_on(tensor: Rows) -> torch.Tensor | None:
    """Return the stored tensor whose values are those of `tensor`, row for row; None where they are computed."""
    return getattr(tensor, "passed_on", None)


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the tensor's elements, row-major, as they lie in memory (little-endian on every machine that torch runs on)."""
    return tensor.contiguous().view(torch.uint8).numpy().data


def stored_as(values: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Return `values` of tensor `name` in `dtype`; raises UserError where one is no number or beyond its range."""
    if not values.numel():
        return values.to(dtype)
    # Both NaN and infinity reach the extremes, in one pass and without temporaries.
    extremes = torch.stack(torch.aminmax(values))
    if not torch.isfinite(extremes).all():
        raise UserError(
            f"{name}: growth makes values of it that are NaN or infinity; choose options, for instance noise or repeat_scale, "
            "that are smaller"
        )
    if torch.finfo(dtype).max < torch.finfo(values.dtype).max:
        furthest = extremes.abs().max().item()
        # Values up to half a step beyond the largest number still round to it; one step is a sharp enough bound.
        if furthest > torch.finfo(dtype).max:
            raise UserError(
                f"{name}: {furthest:.3g} is beyond the range of {str(dtype).removeprefix('torch.')}; choose float32 or bfloat16"
            )
    return values.to(dtype)
