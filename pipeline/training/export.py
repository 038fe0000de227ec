"""A trained model as a Hugging Face directory, in fp32, gathered a tensor at a time."""

import shutil
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file

from data_prep.errors import UserError
from data_prep.files import publish_directory, write_json
from data_prep.tokenizer import Tokenizer
from pipeline.growth.huggingface import WEIGHTS, WEIGHTS_INDEX
from pipeline.training import distributed
from pipeline.training.engine import TrainedModel

_PATTERN = WEIGHTS.replace(".safetensors", "{suffix}.safetensors")


def export(model: TrainedModel, directory: Path, tokenizer: Tokenizer) -> None:
    """Write the model and its tokenizer into `directory`, which appears whole; a collective call.

    Raises UserError where the disk is full.
    """
    parameters = dict(model.module.named_parameters())
    shapes = {name: getattr(parameter, "ds_shape", parameter.shape) for name, parameter in parameters.items()}
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, filename_pattern=_PATTERN
    )
    first = distributed.rank() == 0
    failure: UserError | None = None
    aside = directory.with_name(directory.name + ".gathering")

    def begin() -> None:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)

    distributed.on_first_rank(begin)
    for file, names in plan.filename_to_tensors.items():
        gathered = {name: model.full_weight(parameters[name]) for name in names}
        if first and failure is None:
            try:
                save_file({name: tensor.contiguous() for name, tensor in gathered.items()}, aside / file, {"format": "pt"})
            except (OSError, SafetensorError) as error:
                failure = UserError(f"{directory / file}: {' '.join(str(error).split())}; make room and start again")

    def finish() -> None:
        if failure is not None:
            shutil.rmtree(aside, ignore_errors=True)
            raise failure
        if plan.is_sharded:
            write_json(aside / WEIGHTS_INDEX, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})
        model.config.save_pretrained(aside)
        for path in tokenizer.files:
            shutil.copyfile(path, aside / path.name)
        publish_directory(aside, directory)

    distributed.on_first_rank(finish)
