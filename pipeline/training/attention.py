"""Attention that stays within a document, in the terms of each family's Hugging Face class."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PretrainedConfig, masking_utils

from pipeline.families import Family

Mask = torch.Tensor | dict[str, torch.Tensor]
"""Of all layers, or by their type."""


def within_documents(family: Family, config: PretrainedConfig, documents: torch.Tensor, dtype: torch.dtype) -> dict[str, Mask]:
    """Return what the model is to be called with so that no token sees another document's, and positions restart.

    `documents` is int64 [sequences, S], the number of each token's document within its sequence; `dtype` the model's.
    """
    positions = positions_within(documents)
    if family.objective == "clm":
        # transformers takes positions that restart in packed documents, and masks them, sliding windows included.
        return {"position_ids": positions}
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return {"position_ids": positions + family.position_offset, "attention_mask": _as_taken(same, config, dtype)}


def seen_alone(config: PretrainedConfig, seen: torch.Tensor, dtype: torch.dtype) -> Mask:
    """Return the mask of a masked model that sees these positions alone: `seen`, int64 [sequences, S], is 1 for them.

    Of a mask of one row transformers would ask whether it is all ones, and wait for the device to know.
    """
    rows = seen.bool()[:, None, None, :].expand(-1, 1, seen.shape[1], -1)
    return _as_taken(rows, config, dtype)


def _as_taken(mask: torch.Tensor, config: PretrainedConfig, dtype: torch.dtype) -> Mask:
    """Return a mask, bool [sequences, 1, S, S] and true where attention goes, as a masked model takes it.

    A mask that is given stands as it is, so that a window is to be in it.
    """
    if not getattr(config, "layer_types", None):
        return _added(mask, config, dtype)
    places = torch.arange(mask.shape[-1], device=mask.device)
    near = (places[:, None] - places[None, :]).abs() <= config.sliding_window
    return {"full_attention": _added(mask, config, dtype), "sliding_attention": _added(mask & near, config, dtype)}


def _added(mask: torch.Tensor, config: PretrainedConfig, dtype: torch.dtype) -> torch.Tensor:
    """Return what eager attention adds to its scores, or the mask itself for any other."""
    if config._attn_implementation != "eager":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def positions_within(documents: torch.Tensor) -> torch.Tensor:
    """Return each token's position within its document, int64 [sequences, S]."""
    places = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return places - torch.where(begins, places, 0).cummax(dim=1).values


@contextmanager
def packing_known(documents: torch.Tensor | None) -> Iterator[None]:
    """Have transformers take these for a batch's documents, of which there is one a sequence where it is None.

    It would look for them in the positions, and wait for the device in every forward pass to know whether it found any.
    """
    original, here = masking_utils.find_packed_sequence_indices, threading.get_ident()

    def known(position_ids: torch.Tensor) -> torch.Tensor | None:
        # A model that another thread runs meanwhile has other documents.
        return documents if threading.get_ident() == here else original(position_ids)

    masking_utils.find_packed_sequence_indices = known
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = original
