"""Hugging Face directories as others leave them: another configuration, other tensors, other files."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def describe(directory: Path, **changes) -> None:
    """Change keys of config.json; `...` removes one."""
    path = directory / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def rewrite(directory: Path, change: Callable[[dict], dict]) -> dict:
    """Save what `change` makes of the tensors in their place; return it."""
    tensors = change(load_file(directory / WEIGHTS))
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, directory / WEIGHTS, {"format": "pt"})
    return tensors


def as_bin(directory: Path, change: Callable[[dict], object] = lambda tensors: tensors, **options) -> object:
    """Save what `change` makes of the tensors as pytorch_model.bin instead; return it."""
    tensors = change(load_file(directory / WEIGHTS))
    (directory / WEIGHTS).unlink()
    torch.save(tensors, directory / "pytorch_model.bin", **options)
    return tensors


def in_shards(directory: Path, form: str = "safetensors", count: int = 2, *, index: bool) -> dict:
    """Save the tensors in several files instead, with an index or without; return them."""
    tensors = load_file(directory / WEIGHTS)
    (directory / WEIGHTS).unlink()
    stem, files = "model" if form == "safetensors" else "pytorch_model", {}
    for number in range(count):
        some = dict(sorted(tensors.items())[number::count])
        path = directory / f"{stem}-{number + 1:05}-of-{count:05}.{form}"
        files |= dict.fromkeys(some, path.name)
        if form == "bin":
            torch.save(some, path)
        else:
            save_file(some, path, {"format": "pt"})
    if index:
        (directory / f"{stem}.{form}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return tensors
