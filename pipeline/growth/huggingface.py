"""Hugging Face model directories: the language model in them, read through memory maps."""

from collections import Counter
from math import prod
from pathlib import Path

import torch
from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.common.heartbeat import beat
from pipeline.families import QUANTIZATION, family_of, read_config
from pipeline.growth.language_model import LanguageModel, names_head
from pipeline.growth.state import Described, Source, State, stored_dtype
from pipeline.growth.trainer_checkpoints import CONFIG
from pipeline.growth.untrusted_weights import (
    forget_stale,
    quantized_by,
    refuse_untrusted_files,
    refuse_untrusted_values,
)
from pipeline.growth.weight_files import has_weights, stored_tensors, weight_files


class MappedTensor:
    """A tensor of a memory-mapped file; pages come in from disk as rows are asked for."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = self.passed_on = tensor
        self._dtype = torch.promote_types(tensor.dtype, torch.float32)
        self.stored = tensor.dtype
        """The dtype on disk."""
        self.shape = tuple(tensor.shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32 or wider."""
        beat()
        return self._tensor[start:stop].to(self._dtype)


def open_huggingface(directory: Path) -> Source:
    """Return the language model in a Hugging Face directory, its tensors memory-mapped.

    Weights are safetensors, or PyTorch's own files where there are none. What the tensors say counts more than config.json
    does: whether the output matrix is tied, whether weights are quantized. Heads for other tasks are left out; a language
    model's head that the model was saved without is at the class's initialization; names lose what training put around
    them. All that is said in the source's remarks. Raises UserError where the directory holds no configuration or weights,
    is of an unknown family, or lacks, misshapes, repeats or adds a tensor, or stores one in no floating-point dtype.
    """
    refuse_untrusted_files(directory, has_weights(directory))
    config = read_config(directory / CONFIG, lambda: _names(directory))
    model = LanguageModel(config, family_of(config, f"{directory}/{CONFIG}"), CONFIG)
    files = weight_files(directory)
    for path, published, tensor in stored_tensors(files):
        name = model.name(path, published)
        if name is not None:
            refuse_untrusted_values(path, published, tensor)
            model.add(path, published, name, MappedTensor(tensor))
    state, said = model.settle(directory)
    unindexed = len(files) > 1 and not list(directory.glob("*.index.json"))
    remarks = [
        *([f"there is no index of the {len(files)} shards, which are taken by their names"] if unindexed else []),
        *said,
        *forget_stale(config),
        *_settle_dtype(config, model.tensors),
    ]
    return Source(directory, config, model.family, state, remarks=tuple(remarks))


def describe_huggingface(directory: Path) -> Source:
    """Return the model that a Hugging Face directory's config.json describes, without its weights.

    What reads no values can use it: shapes, bytes, memory. The dtype is config.json's, float32 where it names
    none. Raises UserError where the directory holds no configuration of a known family, weights in another format alone,
    or where config.json says that they are quantized.
    """
    refuse_untrusted_files(directory, usable=False)
    config = read_config(directory / CONFIG)
    method = quantized_by(config)
    if method is not None:
        raise UserError(
            f"{directory}/{CONFIG}: {QUANTIZATION} says that the weights are quantized ({method}), which cannot be grown; name "
            "the model that they were quantized from, or remove the key if they are plain"
        )
    family = family_of(config, f"{directory}/{CONFIG}")
    graph = family.graph(config)
    state = {name: Described(tensor.shape(graph.sizes), dtype_of(config)) for name, tensor in graph.tensors().items()}
    remarks = forget_stale(config)
    if config.architectures and not names_head(config) and any(family.of_head(name) for name in state):
        head = ", ".join(family.lm_head)
        remarks.append(f"{head}: a {config.architectures[0]} has none, and it will be at the class's random initialization")
    return Source(directory, config, family, state, remarks=tuple(remarks))


def dtype_of(config: PretrainedConfig) -> torch.dtype:
    """Return the dtype that a configuration names, float32 where it names none."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def _names(directory: Path) -> list[str]:
    return [name for _, name, _ in stored_tensors(weight_files(directory))] if has_weights(directory) else []


def _settle_dtype(config: PretrainedConfig, tensors: State) -> list[str]:
    """Have config.json's dtype, or that of most weights where it names none; return what there is to say."""
    stored = Counter[torch.dtype]()
    for tensor in tensors.values():
        stored[stored_dtype(tensor)] += prod(tensor.shape)
    ((most, _),) = stored.most_common(1)
    if config.dtype is None:
        config.dtype = most
    if config.dtype is most:
        return []
    said, found = (str(dtype).removeprefix("torch.") for dtype in (config.dtype, most))
    return [
        f"config.json says dtype {said}, and the weights are stored as {found}: {found} is read, and {said} written by default"
    ]
