"""What a forward pass keeps for the backward pass."""

from collections.abc import Callable
from weakref import WeakSet

import torch
from torch import nn


class _Kept:
    """One tensor that a graph holds; it is gone as soon as the graph is."""

    def __init__(self, tensor: torch.Tensor) -> None:
        # With its graph, which holds this object, it would never be freed: Python does not see such a circle.
        self.tensor = tensor.detach()


def saved_bytes(model: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes of storage that autograd keeps of `forward`, each storage once, the model's own tensors left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    held: WeakSet[_Kept] = WeakSet()

    def keep(tensor: torch.Tensor) -> _Kept:
        kept = _Kept(tensor)
        held.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        result = forward()
    storages = {kept.tensor.untyped_storage().data_ptr(): kept.tensor.untyped_storage().nbytes() for kept in held}
    del result
    return sum(size for address, size in storages.items() if address not in own)
