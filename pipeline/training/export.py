"""A checkpoint as a Hugging Face directory, in fp32."""

import shutil
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PretrainedConfig

from data_prep.errors import UserError
from data_prep.files import whole_directory, write_json
from data_prep.tokenizer import Tokenizer
from pipeline.growth.huggingface import WEIGHTS, WEIGHTS_INDEX
from pipeline.growth.state import Source, State


def export(source: Source, directory: Path, tokenizer: Tokenizer) -> None:
    """Write a model and its tokenizer into `directory`, which appears whole; one rank's work.

    Raises UserError where the disk is full.
    """
    try:
        with whole_directory(directory) as aside:
            _write_huggingface(aside, source.config, source.state, torch.float32)
            for path in tokenizer.files:
                shutil.copyfile(path, aside / path.name)
    except SafetensorError as error:
        raise UserError(f"{directory}: {' '.join(str(error).split())}; make room and start again") from None


def _write_huggingface(directory: Path, config: PretrainedConfig, state: State, dtype: torch.dtype) -> None:
    """Write config.json and the weights, a file of them in memory at a time."""
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(rows.shape, dtype=dtype, device="meta") for name, rows in state.items()},
        filename_pattern=WEIGHTS.replace(".safetensors", "{suffix}.safetensors"),
    )
    for file, names in plan.filename_to_tensors.items():
        tensors = {name: state[name].rows(0, state[name].shape[0]).to(dtype).contiguous() for name in names}
        save_file(tensors, directory / file, {"format": "pt"})
    if plan.is_sharded:
        write_json(directory / WEIGHTS_INDEX, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})
    config.save_pretrained(directory)
