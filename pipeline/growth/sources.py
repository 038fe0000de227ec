"""Sources: where a state comes from."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig

from data_prep.config import read_json
from data_prep.errors import UserError
from pipeline import keyed
from pipeline.families import Family, TensorSpec, family_of, sizes_of
from pipeline.growth.state import Rows, State

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


class InitializedTensor:
    """A tensor at the model's own random initialization, each element a function of (seed, name, index)."""

    def __init__(self, shape: tuple[int, ...], kind: str, std: float, key: tuple[object, ...]) -> None:
        self.shape = shape
        self._kind = kind
        self._std = std
        self._key = key

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32."""
        shape = (stop - start, *self.shape[1:])
        if self._kind in ("zeros", "ones"):
            return torch.full(shape, float(self._kind == "ones"))
        width = math.prod(self.shape[1:])
        values = keyed.normal(self._key, start * width, (stop - start) * width) * self._std
        return torch.from_numpy(values).float().reshape(shape)


def initialized(family: Family, config: PretrainedConfig, seed: int) -> State:
    """Return a model at the family's own random initialization."""
    sizes = sizes_of(config)

    def tensor(name: str, spec: TensorSpec) -> Rows:
        std = config.initializer_range
        if spec.init == "normal_residual":
            std /= math.sqrt(2 * sizes.num_hidden_layers)
        return InitializedTensor(sizes.shape(spec), spec.init, std, ("init", seed, name))

    return {name: tensor(name, spec) for name, (spec, _) in family.specs(sizes).items()}


class HuggingFaceSource:
    """A Hugging Face model directory: its configuration, family and memory-mapped state."""

    def __init__(self, directory: Path) -> None:
        """Open `directory`.

        Raises UserError where it holds no configuration or weights, is of an unknown family, or lacks,
        misshapes or adds a tensor.
        """
        self.directory = directory
        self.config = _read_config(directory)
        self.family = family_of(self.config, f"{directory}/config.json")
        self.state = self._map_tensors()

    def _map_tensors(self) -> dict[str, MappedTensor]:
        sizes = sizes_of(self.config)
        specs = self.family.specs(sizes)
        state: dict[str, MappedTensor] = {}
        for path in _weight_files(self.directory):
            for published, tensor in _tensors(path):
                name = self.family.canonical(published)
                if name is None or (name not in specs and name in self.family.head_alias):
                    continue
                if name not in specs:
                    raise UserError(f"{path}: tensor {published!r} is unknown to family {self.family.name}")
                expected = sizes.shape(specs[name][0])
                if tuple(tensor.shape) != expected:
                    raise UserError(
                        f"{path}: tensor {published!r} has shape {tuple(tensor.shape)} where config.json makes it {expected}"
                    )
                state[name] = MappedTensor(tensor)
        missing = [name for name in specs if name not in state]
        if missing:
            raise UserError(
                f"{self.directory}: tensor {missing[0]!r} is missing from the weights"
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
