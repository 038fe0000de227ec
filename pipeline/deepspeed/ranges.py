"""Ranges inside DeepSpeed's zero.Init: exact for every dtype of the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_ARANGE = torch.arange


@contextmanager
def exact_arange() -> Iterator[None]:
    """Keep the dtype that `torch.arange` is asked for; entered inside zero.Init, which rounds all floats to the model's dtype.

    Rotary frequencies are made of such ranges: in bfloat16 they are off by 0.4 %, which is whole turns at the end of a long
    sequence. Only some releases of transformers see to it, and only in `from_pretrained`.
    """
    # Where zero.Init puts a tensor that names no device.
    within = torch.arange
    device = within(0).device

    def exact(*arguments: Any, **options: Any) -> torch.Tensor:
        if options.get("device") is None:
            options["device"] = device
        return _ARANGE(*arguments, **options)

    torch.arange = exact
    try:
        yield
    finally:
        torch.arange = within
