"""A copy, in the host's memory, of what is about to be written, so that training can go on while it is."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def on_host(value: Any) -> Any:
    """Return a copy of a state dictionary whose tensors lie in host memory and share storage as the originals do.

    Written, it gives the bytes that the original would have given (on an accelerator: but for the device's name).
    """
    copies: dict[int, Any] = {}
    storages: dict[int, torch.UntypedStorage] = {}
    originals = list(_tensors(value))
    for tensor in originals:
        copies[id(tensor)] = _copy(tensor, storages)
    # deepcopy takes what it finds by the id of the original, and copies all else, objects of DeepSpeed's among them.
    return copy.deepcopy(value, copies)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _copy(tensor: torch.Tensor, storages: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    storage = tensor.untyped_storage()
    # By the storage's own id: an empty one has no address.
    if storage._cdata not in storages:
        storages[storage._cdata] = storage.clone() if storage.device.type == "cpu" else storage.cpu()
    held = torch.empty(0, dtype=tensor.dtype)
    held.set_(storages[storage._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())
    if isinstance(tensor, torch.nn.Parameter):
        held = torch.nn.Parameter(held)
    # DeepSpeed's own numbers of a tensor, which are written with it.
    held.__dict__.update(copy.deepcopy(tensor.__dict__))
    return held.requires_grad_(tensor.requires_grad)
