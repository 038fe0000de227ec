"""What a step does that would have the host wait for a CUDA device, counted on a CPU."""

import contextlib
import traceback
from collections.abc import Iterator
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_METHODS = {
    getattr(torch.Tensor, name)
    for name in (
        *("item", "tolist", "numpy", "cpu", "nonzero", "masked_select", "unique", "equal", "allclose", "argwhere"),
        *("__bool__", "__float__", "__int__", "__index__", "__array__", "__contains__", "is_nonzero", "unique_consecutive"),
    )
} | {torch.nonzero, torch.masked_select, torch.unique, torch.equal, torch.allclose, torch.argwhere, torch.is_nonzero}
_MADE = {torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor}
"""With a device named: the number goes there by a copy out of memory that is not page-locked."""
_INDEXING = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}
_OPERATIONS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.equal.default,
    # Both take the value to the host.
    torch.ops.aten.masked_fill.Tensor,
    torch.ops.aten.masked_fill_.Tensor,
    torch.ops.aten.repeat_interleave.Tensor,
}


class Waits(TorchFunctionMode):
    """Notes the lines of this thread's work at which the host would wait for a device, taking every tensor to be there.

    What lies on the host is therefore to be read as numpy's. Copies to the device are another matter: `PackedBatches`'s test.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.operations = 0
        """Operations that a device would run: views are none."""
        self._below = _Below(self)

    def __enter__(self) -> "Waits":
        self._below.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._below.__exit__(*exception)

    def note(self, name: str) -> None:
        """Note one of them, with the lines that led there."""
        frames = [frame for frame in traceback.extract_stack() if frame.filename != __file__ and "torch/" not in frame.filename]
        where = " < ".join(f"{frame.filename.split('/')[-1]}:{frame.lineno}" for frame in reversed(frames[-4:]))
        self.seen.append(f"{name} at {where}")

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        made = function in _MADE and options.get("device") is not None
        masked = function in _INDEXING and _has_mask(arguments[1])
        if function in _METHODS or made or masked:
            before = len(self.seen)
            result = function(*arguments, **options)
            # Once, although what it is made of is noted too.
            del self.seen[before:]
            self.note(getattr(function, "__name__", str(function)))
            return result
        return function(*arguments, **options)


class _Below(TorchDispatchMode):
    """The operations that are reached without a function of torch's: inside of C++, and in the backward pass."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self._waits.operations += not function.is_view
        indexed = function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_, torch.ops.aten.index_put)
        if function in _OPERATIONS or (indexed and _has_mask(tuple(arguments[1]))):
            self._waits.note(str(function))
        return function(*arguments, **(options or {}))


def _has_mask(index: object) -> bool:
    parts = index if isinstance(index, tuple | list) else (index,)
    return any(isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8) for part in parts)


@contextlib.contextmanager
def unwaiting(*, streams: bool = False) -> Iterator[None]:
    """On CUDA, have anything raise that makes the host wait for the device, but for events.

    `streams` may be waited for, as ZeRO 3 does: for the one that fetches, and at the end of a backward pass for the reductions.
    """
    torch.cuda.synchronize()
    mode, wait = torch.cuda.get_sync_debug_mode(), torch.cuda.Stream.synchronize

    def allowed(stream: torch.cuda.Stream) -> None:
        torch.cuda.set_sync_debug_mode(mode)
        try:
            wait(stream)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    torch.cuda.set_sync_debug_mode("error")
    try:
        with patch.object(torch.cuda.Stream, "synchronize", allowed if streams else wait):
            yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)
