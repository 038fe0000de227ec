"""Attention that stays within a document, in the terms of each family's Hugging Face class."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PretrainedConfig, masking_utils

from pipeline.families import Family


def within_documents(
    family: Family, config: PretrainedConfig, documents: torch.Tensor, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return what the model is to be called with so that no token sees another document's, and positions begin anew.

    `documents` is int64 [sequences, S], the number of each token's document within its sequence; `dtype` the model's.
    """
    places = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    positions = places - torch.where(begins, places, 0).cummax(dim=1).values
    if family.objective == "clm":
        # transformers takes positions that begin anew for packed documents, and masks them, sliding windows included.
        return {"position_ids": positions}
    same = documents[:, None, :, None] == documents[:, None, None, :]
    if config._attn_implementation == "eager":
        # Eager attention adds its mask to the scores.
        same = torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill(~same, torch.finfo(dtype).min)
    return {"position_ids": positions + family.position_offset, "attention_mask": same}


@contextmanager
def packing_known(documents: torch.Tensor | None) -> Iterator[None]:
    """Have transformers take these for a batch's documents, of which there is one a sequence where it is None.

    It would look for them in the positions, and wait for the device in every forward pass to know whether it found any.
    """
    looks, masking_utils.find_packed_sequence_indices = masking_utils.find_packed_sequence_indices, lambda _: documents
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = looks
