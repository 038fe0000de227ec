"""Hugging Face model directories: read through memory maps."""

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig

from data_prep.config import read_json
from data_prep.errors import UserError
from pipeline.families import FAMILIES, Family, family_of, sizes_of
from pipeline.growth.state import Described, Source

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_BIN_WEIGHTS = "pytorch_model.bin"
_BIN_INDEX = "pytorch_model.bin.index.json"

_STORED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
    """Return the model in a Hugging Face directory, its tensors memory-mapped.

    Weights are safetensors, or PyTorch's own files where there are none. Raises UserError where the
    directory holds no configuration or weights, is of an unknown family, or lacks, misshapes, repeats or
    adds a tensor, or stores one in no floating-point dtype of torch's.
    """
    config = read_config(directory / "config.json")
    family = family_of(config, f"{directory}/config.json")
    return Source(directory, config, family, _map_tensors(directory, config, family))


def describe_huggingface(directory: Path) -> Source:
    """Return the model that a Hugging Face directory's config.json describes, without its weights.

    What reads no values can be told of it: shapes, bytes, memory. The dtype is config.json's, float32 where it names
    none. Raises UserError where the directory holds no configuration of a known family.
    """
    config = read_config(directory / "config.json")
    family, sizes = family_of(config, f"{directory}/config.json"), sizes_of(config)
    stored = config.dtype or torch.float32
    state = {name: Described(sizes.shape(spec), stored) for name, (spec, _) in family.specs(sizes).items()}
    return Source(directory, config, family, state)


def has_weights(directory: Path) -> bool:
    """Whether a Hugging Face directory holds any file of weights."""
    return any((directory / name).is_file() for name in (WEIGHTS, WEIGHTS_INDEX, _BIN_WEIGHTS, _BIN_INDEX))


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
                raise UserError(
                    f"{path}: tensor {published!r} is unknown to family {family.name} at the sizes in config.json; put the "
                    "model's own config.json there, or save its language model alone"
                )
            if name in state:
                raise UserError(f"{path}: tensor {published!r} is there twice; save the model again with save_pretrained")
            if tensor.dtype not in _STORED:
                raise UserError(
                    f"{path}: tensor {published!r} is stored as {str(tensor.dtype).removeprefix('torch.')}; quantized weights "
                    "cannot be grown, save the model in float32, bfloat16 or float16"
                )
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
            + (", or name its own class in config.json as architectures" if family.pair_logits else "")
        )
    return {name: state[name] for name in specs}


def read_config(path: Path) -> PretrainedConfig:
    """Return the configuration in a Hugging Face config.json; raises UserError where it is none that its class takes."""
    content = read_json(path, "a Hugging Face model directory has one")
    if content.get("model_type") not in [*FAMILIES]:
        raise UserError(f"{path}: model_type {content.get('model_type')!r} is not known; known are {', '.join(FAMILIES)}")
    try:
        return AutoConfig.for_model(**content)
    except StrictDataclassFieldValidationError as error:
        field = re.search(r"field '(\w+)'", str(error))[1]
        raise UserError(f"{path}: {field}: {_short(error.__cause__)}; put the model's own value there") from None
    except StrictDataclassClassValidationError as error:
        raise UserError(f"{path}: {_short(error.__cause__).rstrip('.')}; put the model's own values there") from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        name = FAMILIES[content["model_type"]].config_class.__name__
        raise UserError(f"{path}: no configuration that {name} takes ({_short(error)}); copy the file again") from None


def _weight_files(directory: Path) -> list[Path]:
    for index in (directory / WEIGHTS_INDEX, directory / _BIN_INDEX):
        single = index.with_name(index.name.removesuffix(".index.json"))
        if single.is_file():
            return [single]
        if index.is_file():
            return _indexed_files(index)
    raise UserError(f"{directory / WEIGHTS}: no such file; the directory has no weights, neither {WEIGHTS} nor {_BIN_WEIGHTS}")


def _indexed_files(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index, "save the model again")["weight_map"].values()))
    except (KeyError, AttributeError, TypeError):
        raise UserError(f"{index}: not an index of weights; save the model again with save_pretrained") from None
    files = [index.parent / name for name in names]
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such file, though {index.name} names it; copy the whole directory again")
    return files


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a file's tensors; they stay mapped, nothing is read yet."""
    yield from (_pickled if path.suffix == ".bin" else _safetensors)(path)


def _safetensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                yield name, file.get_tensor(name)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path}: damaged safetensors file ({_short(error)}); copy it again") from None


def _pickled(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """PyTorch's own format. Files that need more than `weights_only` may run any code when they are loaded."""
    try:
        content: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds more than tensors, and loading it could run code of its author's; save the model as safetensors"
        ) from None
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise UserError(
            f"{path}: cannot be memory-mapped, being damaged or in a format older than torch 1.6 ({_short(error)}); copy it "
            "again, or save the model as safetensors"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise UserError(f"{path}: not a mapping of names to tensors; save the model again with save_pretrained")
    yield from content.items()


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
