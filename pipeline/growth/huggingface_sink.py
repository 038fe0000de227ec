"""Hugging Face model directories written as a stream: safetensors files of any size in bounded memory."""

import copy
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from transformers import PretrainedConfig

from pipeline.common.errors import UserError, is_full_disk
from pipeline.common.files import write_json
from pipeline.families import family_of, graph_of
from pipeline.growth.state import Rows, State
from pipeline.growth.streaming import raw_bytes, row_chunks, stored_as
from pipeline.growth.weight_files import WEIGHTS, WEIGHTS_INDEX

MAX_SHARD_BYTES = 5 << 30

Progress = Callable[[int], object]
"""Called with the number of bytes written since its last call."""

_PATTERN = WEIGHTS.replace(".safetensors", "{suffix}.safetensors")
_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def write_huggingface(
    directory: Path,
    config: PretrainedConfig,
    state: State,
    dtype: torch.dtype,
    progress: Progress = lambda _: None,
) -> None:
    """Write config.json and the state's weights in `dtype` into `directory`, which exists and is the caller's to discard.

    Buffers among them are written in float32 or wider, as their classes keep them. The names are the family's, a tied head
    left out, as save_pretrained does. Raises UserError where the disk is full or a value is beyond the dtype.
    """
    buffers = {name for name, tensor in graph_of(config).tensors().items() if tensor.buffer}
    dtypes = {name: torch.promote_types(dtype, torch.float32) if name in buffers else dtype for name in state}
    # Meta tensors have sizes and no elements, which is all that the split asks of them.
    described = {name: torch.empty(tensor.shape, dtype=dtypes[name], device="meta") for name, tensor in state.items()}
    split = split_torch_state_dict_into_shards(described, filename_pattern=_PATTERN, max_shard_size=MAX_SHARD_BYTES)
    try:
        for file, names in split.filename_to_tensors.items():
            _write_safetensors(directory / file, {name: state[name] for name in names}, dtypes, progress)
        if split.is_sharded:
            write_json(directory / WEIGHTS_INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
        written = copy.deepcopy(config)
        written.architectures, written.dtype = [family_of(config).model_class.__name__], dtype
        written.save_pretrained(directory)
    except OSError as error:
        raise write_error(directory, error) from None


def write_error(directory: Path, error: OSError) -> Exception:
    """Return what a failed write comes to: UserError where the disk is full, else the error itself."""
    if is_full_disk(error):
        return UserError(f"{directory}: {error.strerror}; free disk space or name another directory, and start again")
    return error


def _write_safetensors(path: Path, tensors: dict[str, Rows], dtypes: dict[str, torch.dtype], progress: Progress) -> None:
    """The format: the header's length in 8 bytes, the header as JSON padded to 8 bytes, then the tensors end to end."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + math.prod(tensor.shape) * dtypes[name].itemsize
        header[name] = {"dtype": _NAMES[dtypes[name]], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            for _, rows in row_chunks(tensor, dtype=dtypes[name]):
                progress(file.write(raw_bytes(stored_as(rows, dtypes[name], name))))
