"""Hugging Face model directories: read through memory maps."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig

from data_prep.config import read_json
from data_prep.errors import UserError
from pipeline.families import Family, family_of, sizes_of
from pipeline.growth.state import Source

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


class MappedTensor:
    """A tensor of a safetensors file; pages come in from disk as rows are asked for."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self._dtype = torch.promote_types(tensor.dtype, torch.float32)
        self.shape = tuple(tensor.shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32 or wider."""
        return self._tensor[start:stop].to(self._dtype)

    def select(self, rows: torch.Tensor, columns: torch.Tensor | None) -> torch.Tensor:
        """Return the rows, and of each the columns, at these indices."""
        picked = self._tensor[rows]
        return (picked if columns is None else picked[:, columns]).to(self._dtype)


def open_huggingface(directory: Path) -> Source:
    """Return the model in a Hugging Face directory, its tensors memory-mapped.

    Raises UserError where it holds no configuration or weights, is of an unknown family, or lacks,
    misshapes or adds a tensor.
    """
    config = _read_config(directory)
    family = family_of(config, f"{directory}/config.json")
    return Source(directory, config, family, _map_tensors(directory, config, family))


def _map_tensors(directory: Path, config: PretrainedConfig, family: Family) -> dict[str, MappedTensor]:
    sizes = sizes_of(config)
    specs = family.specs(sizes)
    state: dict[str, MappedTensor] = {}
    for path in _weight_files(directory):
        for published, tensor in _tensors(path):
            name = family.canonical(published)
            if name is None or (name not in specs and name in family.head_alias):
                continue
            if name not in specs:
                raise UserError(f"{path}: tensor {published!r} is unknown to family {family.name}")
            expected = sizes.shape(specs[name][0])
            if tuple(tensor.shape) != expected:
                raise UserError(
                    f"{path}: tensor {published!r} has shape {tuple(tensor.shape)} where config.json makes it {expected}"
                )
            state[name] = MappedTensor(tensor)
    missing = [name for name in specs if name not in state]
    if missing:
        raise UserError(
            f"{directory}: tensor {missing[0]!r} is missing from the weights"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; save the model again with save_pretrained"
        )
    return {name: state[name] for name in specs}


def _read_config(directory: Path) -> PretrainedConfig:
    path = directory / "config.json"
    content = read_json(path, "a Hugging Face model directory has one")
    try:
        return AutoConfig.for_model(**content)
    except (TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: model_type {content.get('model_type')!r} is not known ({reason})") from None


def _weight_files(directory: Path) -> list[Path]:
    index = directory / WEIGHTS_INDEX
    if index.is_file():
        try:
            names = sorted(set(read_json(index, "save the model again")["weight_map"].values()))
        except (KeyError, AttributeError):
            raise UserError(f"{index}: not an index of weights; save the model again with save_pretrained") from None
        files = [directory / name for name in names]
    else:
        files = [directory / WEIGHTS]
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such file; the directory has no weights in safetensors format")
    return files


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a safetensors file's tensors; they stay mapped, nothing is read yet."""
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged safetensors file ({error})") from None
