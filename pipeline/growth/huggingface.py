"""Hugging Face model directories: the language model in them, read through memory maps."""

from collections import Counter
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import torch
from transformers import PretrainedConfig

from data_prep.errors import UserError
from pipeline.families import QUANTIZATION, Family, Sizes, family_of, place, read_config, sizes_of
from pipeline.growth.foreign_weights import (
    forget_stale,
    quantized_by,
    refuse_foreign_files,
    refuse_foreign_name,
    refuse_foreign_values,
)
from pipeline.growth.initialization import initialized
from pipeline.growth.output_matrix import settle_output
from pipeline.growth.state import Described, Source, State
from pipeline.growth.surroundings import CONFIG
from pipeline.growth.weight_files import has_weights, stored_tensors, weight_files

_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "DoubleHeadsModel", "ForMaskedLM", "ForPreTraining")
"""How the names of the classes end that have the language model's head."""

_SEED = 0
"""Of a head that the source has none of: the same one at every opening."""


class MappedTensor:
    """A tensor of a memory-mapped file; pages come in from disk as rows are asked for."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._dtype = torch.promote_types(tensor.dtype, torch.float32)
        self.stored = tensor.dtype
        """The dtype on disk."""
        self.shape = tuple(tensor.shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32 or wider."""
        return self._tensor[start:stop].to(self._dtype)


def open_huggingface(directory: Path) -> Source:
    """Return the language model in a Hugging Face directory, its tensors memory-mapped.

    Weights are safetensors, or PyTorch's own files where there are none. What the tensors say counts more than config.json
    does: whether the output matrix is tied, whether weights are quantized. Heads for other tasks are left out; a language
    model's head that the model was saved without is at the class's initialization; names lose what training put around
    them. All that is said in the source's remarks. Raises UserError where the directory holds no configuration or weights,
    is of an unknown family, or lacks, misshapes, repeats or adds a tensor, or stores one in no floating-point dtype.
    """
    refuse_foreign_files(directory, has_weights(directory))
    config = read_config(directory / CONFIG, lambda: _names(directory))
    family = family_of(config, f"{directory}/{CONFIG}")
    found = _found(directory, family, sizes_of(config))
    complete = _complete(config, found)
    output = settle_output(family, config.tie_word_embeddings, found.tensors, complete=complete)
    config.tie_word_embeddings = output.tied
    head = {} if complete else _initial_head(family, config, output.state)
    state = output.state | head
    specs = family.specs(sizes_of(config))
    _check_missing(directory, family, [name for name in specs if name not in state])
    remarks = [
        *found.remarks(family),
        *([f"{family.lm_head}: not among the weights, and at the class's random initialization"] if head else []),
        *output.remarks,
        *forget_stale(config),
        *_settle_dtype(config, found.tensors),
    ]
    return Source(directory, config, family, {name: state[name] for name in specs}, remarks=tuple(remarks))


def describe_huggingface(directory: Path) -> Source:
    """Return the model that a Hugging Face directory's config.json describes, without its weights.

    What reads no values can be told of it: shapes, bytes, memory. The dtype is config.json's, float32 where it names
    none. Raises UserError where the directory holds no configuration of a known family, weights in another format alone,
    or where config.json says that they are quantized.
    """
    refuse_foreign_files(directory, usable=False)
    config = read_config(directory / CONFIG)
    method = quantized_by(config)
    if method is not None:
        raise UserError(
            f"{directory}/{CONFIG}: {QUANTIZATION} says that the weights are quantized ({method}), which cannot be grown; name "
            "the model that they were quantized from, or remove the key if they are plain"
        )
    family, sizes = family_of(config, f"{directory}/{CONFIG}"), sizes_of(config)
    stored = config.dtype or torch.float32
    state = {name: Described(sizes.shape(spec), stored) for name, (spec, _) in family.specs(sizes).items()}
    remarks = forget_stale(config)
    if config.architectures and not _names_head(config) and any(name.startswith(f"{family.lm_head}.") for name in state):
        remarks.append(
            f"{family.lm_head}: a {config.architectures[0]} has none, and it will be at the class's random initialization"
        )
    return Source(directory, config, family, state, remarks=tuple(remarks))


@dataclass(slots=True)
class _Found:
    """What lies in a directory's files."""

    tensors: dict[str, MappedTensor] = field(default_factory=dict)
    """By our names."""
    heads: set[str] = field(default_factory=set)
    """The modules of other tasks' heads."""
    wrappers: set[str] = field(default_factory=set)
    prefixed: bool = False
    """Whether names begin with the model inside a language model, as no file of that model alone has them."""
    unindexed: int = 0
    """The number of shards, where no index names them."""

    def remarks(self, family: Family) -> list[str]:
        """Return what there is to say of it."""
        said = []
        if self.unindexed:
            said.append(f"there is no index of the {self.unindexed} shards, which are taken by their names")
        if self.wrappers:
            said.append(f"the tensors' names lose {', '.join(f'{name}.' for name in sorted(self.wrappers))}")
        if self.heads:
            said.append(
                f"{', '.join(sorted(self.heads))}: no part of a {family.model_class.__name__}, and left out of what is grown"
            )
        return said


def _names(directory: Path) -> list[str]:
    return [name for _, name, _ in stored_tensors(weight_files(directory))] if has_weights(directory) else []


def _found(directory: Path, family: Family, sizes: Sizes) -> _Found:
    """Return what is in the files, of the shapes that config.json makes it, tied or not."""
    files = weight_files(directory)
    found = _Found(unindexed=len(files) if len(files) > 1 and not list(directory.glob("*.index.json")) else 0)
    specs, base = family.specs(replace(sizes, tied=False)), family.layers.partition(".")[0] + "."
    for path, published, tensor in stored_tensors(files):
        refuse_foreign_name(path, published)
        placed = place(family, published)
        if placed is None or not (placed.name is None or placed.name in specs):
            raise UserError(
                f"{path}: tensor {published!r} is unknown to family {family.name} at the sizes in {CONFIG}; put the "
                "model's own config.json there, or save its language model alone"
            )
        found.wrappers |= placed.wrappers
        if placed.head is not None:
            found.heads.add(placed.head)
        if placed.name is None:
            continue
        if placed.name in found.tensors:
            raise UserError(f"{path}: tensor {published!r} is there twice; save the model again with save_pretrained")
        refuse_foreign_values(path, published, tensor)
        expected = sizes.shape(specs[placed.name][0])
        if tuple(tensor.shape) != expected:
            raise UserError(f"{path}: tensor {published!r} has shape {tuple(tensor.shape)} where {CONFIG} makes it {expected}")
        found.tensors[placed.name] = MappedTensor(tensor)
        found.prefixed |= base in published
    return found


def _complete(config: PretrainedConfig, found: _Found) -> bool:
    """Whether the model was saved with its language model's head: by its class, or by its tensors where none is named."""
    return _names_head(config) if config.architectures else found.prefixed and not found.heads


def _names_head(config: PretrainedConfig) -> bool:
    return any(name.endswith(_LANGUAGE_MODELS) for name in config.architectures)


def _initial_head(family: Family, config: PretrainedConfig, state: State) -> State:
    """Return the language model's head as its class initializes it, where the whole of it is missing; else nothing."""
    inside = family.lm_head + "."
    if any(name.startswith(inside) for name in state):
        return {}
    return {name: tensor for name, tensor in initialized(family, config, _SEED).items() if name.startswith(inside)}


def _check_missing(directory: Path, family: Family, missing: list[str]) -> None:
    if missing:
        raise UserError(
            f"{directory}: tensor {missing[0]!r} is missing from the weights"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; save the model again with save_pretrained"
            + (", or name its own class in config.json as architectures" if _of_a_head(family, missing[0]) else "")
        )


def _of_a_head(family: Family, name: str) -> bool:
    """Whether a tensor is of a head that other classes of the family do not have."""
    heads = [family.lm_head] if family.pair_logits is None else [family.lm_head, family.pooler, "cls.seq_relationship"]
    return any(name.startswith(f"{head}.") for head in heads)


def _settle_dtype(config: PretrainedConfig, tensors: State) -> list[str]:
    """Have config.json's dtype, or that of most weights where it names none; return what there is to say."""
    stored = Counter[torch.dtype]()
    for tensor in tensors.values():
        stored[tensor.stored] += prod(tensor.shape)
    ((most, _),) = stored.most_common(1)
    if config.dtype is None:
        config.dtype = most
    if config.dtype is most:
        return []
    said, found = (str(dtype).removeprefix("torch.") for dtype in (config.dtype, most))
    return [
        f"config.json says dtype {said}, and the weights are stored as {found}: {found} is read, and {said} written by default"
    ]
