"""One pass over a state before it is grown: are its values numbers, and which values are they?"""

import hashlib
import math
from collections.abc import Iterator

import torch

from pipeline.common.errors import UserError
from pipeline.common.progress import Meter
from pipeline.growth.state import Constant, OptimizerState, State
from pipeline.growth.streaming import CONSTRUCTING, raw_bytes, row_chunks


def inspect(state: State, origin: str) -> str:
    """Return the digest of a state's content: BLAKE2b-128 over names, shapes and values, in hex.

    Values are taken as they are read (float32, or float64 where stored so), so that the digest depends
    neither on the files they are spread over nor on a narrower dtype they are stored in. Raises
    UserError, which begins with `origin`, for a tensor that holds NaN or infinity.
    It may run in a thread beside the construction of a model.
    """
    digest = hashlib.blake2b(digest_size=16)
    size = sum(math.prod(tensor.shape) for tensor in state.values())
    with Meter(f"{origin}: looking through the values", size, "values") as meter:
        for name in sorted(state):
            tensor = state[name]
            digest.update(repr((name, tuple(tensor.shape))).encode())
            for start, rows in _apart(row_chunks(tensor)):
                # Both NaN and infinity reach the extremes, in one pass and without temporaries.
                if not torch.isfinite(torch.stack(torch.aminmax(rows))).all():
                    place = (~torch.isfinite(rows)).nonzero()[0].tolist()
                    raise UserError(
                        f"{origin}: tensor {name!r} holds {rows[tuple(place)].item()} at {[start + place[0], *place[1:]]}; the "
                        "model is damaged or its training diverged, use an earlier checkpoint"
                    )
                digest.update(raw_bytes(rows))
                meter.advance(rows.numel())
    return digest.hexdigest()


def _apart(chunks: Iterator[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the chunks, each read while no model is constructed."""
    while True:
        with CONSTRUCTING:
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def inspect_optimizer(optimizer: OptimizerState, origin: str) -> str:
    """Return the digest of what an optimizer keeps, as `inspect` takes it; raises UserError as that does."""
    state: State = {
        f"{name}.{key}": Constant((1,), kept) if isinstance(kept, float) else kept
        for name, entry in optimizer.items()
        for key, kept in entry.items()
    }
    return inspect(state, origin)
