"""The files that hold a Hugging Face directory's weights, and the tensors in them: memory-mapped, nothing read yet."""

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipeline.common.config import read_json
from pipeline.common.errors import UserError, one_line
from pipeline.common.files import irregular

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_BIN_WEIGHTS = "pytorch_model.bin"

_SHARD = re.compile(r"(model|pytorch_model)-(\d+)-of-(\d+)")


def has_weights(directory: Path) -> bool:
    """Whether a Hugging Face directory holds any file of weights, readable or not."""
    return any(_present(directory, single) for single in (WEIGHTS, _BIN_WEIGHTS))


def weight_files(directory: Path) -> list[Path]:
    """Return the files of a directory's weights: safetensors, or PyTorch's own where there are none.

    One file, or those that an index names, or, where there is no index, all the shards that their names count. Raises
    UserError where there are none, one is missing, or one is no regular file.
    """
    for single in (WEIGHTS, _BIN_WEIGHTS):
        found = _present(directory, single)
        if found:
            files = _indexed(found[0]) if found[0].suffix == ".json" else found if len(found) == 1 else _counted(found)
            for path in files:
                fault = irregular(path)
                if fault is not None:
                    raise UserError(f"{path}: {fault}; copy the whole directory again")
            return files
    raise UserError(f"{directory / WEIGHTS}: no such file; the directory has no weights, neither {WEIGHTS} nor {_BIN_WEIGHTS}")


def stored_tensors(files: list[Path]) -> Iterator[tuple[Path, str, torch.Tensor]]:
    """Yield each tensor with its file and its name there; raises UserError for a file that is damaged or runs code."""
    for path in files:
        for name, tensor in (_pickled if path.suffix == ".bin" else _safetensors)(path):
            yield path, name, tensor


def _present(directory: Path, single: str) -> list[Path]:
    """What of a format is there, the first of: the one file, the index, shards. A name alone counts: a broken link is there."""
    entries = {entry.name: entry for entry in directory.iterdir()} if directory.is_dir() else {}
    for name in (single, single + ".index.json"):
        if name in entries:
            return [entries[name]]
    shards = [entry for entry in entries.values() if entry.suffix == Path(single).suffix and _SHARD.fullmatch(entry.stem)]
    return sorted(shards, key=lambda entry: entry.name)


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index, "save the model again")["weight_map"].values()))
        files = [index.parent / name for name in names]
    except (KeyError, AttributeError, TypeError):
        raise UserError(f"{index}: not an index of weights; save the model again with save_pretrained") from None
    for path, name in zip(files, names, strict=True):
        if Path(name).name != name:
            raise UserError(f"{index}: {name!r} is no name of a file beside it; save the model again with save_pretrained")
        if not (path.exists() or path.is_symlink()):
            raise UserError(f"{path}: no such file, though {index.name} names it; copy the whole directory again")
    return files


def _counted(shards: list[Path]) -> list[Path]:
    """Return the shards that have no index, once they are all there."""
    numbers = {path: match.groups() for path in shards if (match := _SHARD.fullmatch(path.stem)) is not None}
    totals = {(stem, int(total)) for stem, _, total in numbers.values()}
    where = shards[0].parent
    if len(totals) > 1:
        raise UserError(
            f"{where}: holds shards of different models, {shards[0].name} and {shards[-1].name}; remove those of one"
        )
    ((_, total),) = totals
    missing = sorted(set(range(1, total + 1)) - {int(number) for _, number, _ in numbers.values()})
    if missing:
        raise UserError(
            f"{where}: {len(shards)} of {total} shards are there, number {missing[0]} is missing and there is no index; copy "
            "the whole directory again"
        )
    return shards


def _safetensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                yield name, file.get_tensor(name)
    except (SafetensorError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged safetensors file ({one_line(error)}); copy it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or one_line(error)}); copy it again") from None


def _pickled(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """PyTorch's own format. Files that need more than `weights_only` may run any code when they are loaded."""
    try:
        content: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds more than tensors, and loading it could run code of its author's; save the model as safetensors"
        ) from None
    except Exception as error:  # what torch makes of bytes that it did not write
        raise UserError(
            f"{path}: cannot be memory-mapped, being damaged or in a format older than torch 1.6 ({one_line(error)}); copy it "
            "again, or save the model as safetensors"
        ) from None
    if isinstance(content, dict):
        nested = [
            key for key, value in content.items() if isinstance(value, dict) and any(map(torch.is_tensor, value.values()))
        ]
        if nested:
            raise UserError(
                f"{path}: holds its tensors under the key {nested[0]!r}; save that mapping alone: "
                f"torch.save(torch.load('{path}', weights_only=True)[{nested[0]!r}], 'pytorch_model.bin')"
            )
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise UserError(f"{path}: not a mapping of names to tensors; save the model again with save_pretrained")
    for name, tensor in content.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: the key {name!r} is no name of a tensor; save the model again with save_pretrained")
        yield name, tensor.detach()
