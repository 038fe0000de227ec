"""The Python API: grow a transformers model, in memory or in a directory, into a larger Hugging Face directory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.commands.grow import execute, known_model
from pipeline.common.command import refusal
from pipeline.common.config import validate
from pipeline.common.errors import UserError
from pipeline.common.hub import find_directory
from pipeline.families import FLOATS
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.recipe import GrowthConfig, TargetConfig

_CALL = "pipeline.grow"


@dataclass(frozen=True, slots=True)
class GrownModel:
    """What `grow` has written."""

    directory: Path
    """The Hugging Face directory: weights, config.json, tokenizer, model card, certificate.json."""
    certificate: dict[str, Any]
    """The content of certificate.json. `verdict` is `exact`, `approximate` or `inexact by design`, `departures` has the
    reasons, `measured` what was seen before and after in float64; docs/explanation/growth.md says more."""


def grow(
    source: PreTrainedModel | Path | str,
    output_directory: Path | str,
    target: Mapping[str, Any] | Path | str | None = None,
    *,
    width: str = "auto",
    depth: str = "auto",
    growth: Mapping[str, Any] | None = None,
    seed: int = 1234,
    dtype: torch.dtype | str | None = None,
    tokenizer: Path | str | None = None,
    revision: str | None = None,
    **sizes: Any,
) -> GrownModel:
    """Grow a pre-trained model, write the larger one as a Hugging Face directory, and return what was written.

    `source` is a transformers model, which is left as it is, a directory (Hugging Face, a run, a checkpoint), or a name on
    the hub, with `revision`. The sizes that change are given as keywords (`hidden_size=1024, num_hidden_layers=24`), as the
    mapping `target`, or as the path of a config.json; without any the growth is the identity. `width` and `depth` name the
    operators, `growth` the other options of a recipe's section of that name (`{"symmetry": "paired", "noise": 0.25}`).
    `seed` is that of random maps, noise and new values, `dtype` that of the weights written (default: the source's),
    `tokenizer` the target's where it is another than the source's. `output_directory` must be new or empty; it holds the
    whole result or, after an error, nothing. A model in memory has no tokenizer: save its own there afterwards.

    Raises UserError where the input is wrong, and RuntimeError where a growth that should be exact was measured not to be.
    """
    options = validate(GrowthConfig, {**(growth or {}), "width": width, "depth": depth}, f"{_CALL}: growth")
    with _in_one_sentence(), _directory_of(source, revision, tokenizer) as (directory, name):
        out = Path(output_directory)
        request = Request(
            source=directory,
            source_name=name,
            target=_target(target, sizes),
            growth=options,
            seed=seed,
            format="hf",
            dtype=_dtype_name(dtype),
            world_size=None,
            out=out,
            tokenizer=None if tokenizer is None else str(tokenizer),
        )
        opened = OfflineGrowth(request)
        given = {"target": target and str(target), "width": width, "depth": depth, "growth": growth, "seed": seed}
        given |= {"dtype": request.dtype, "tokenizer": request.tokenizer, "revision": revision, **sizes}
        certificate = execute(opened, known_model(opened, _call(name, out, given)))
    return GrownModel(out, certificate)


@contextmanager
def _in_one_sentence() -> Iterator[None]:
    """Turn errors that the command would refuse in one sentence (a full disk, a path without permission) into UserError."""
    try:
        yield
    except Exception as error:
        sentence = refusal(error)
        if sentence is None or isinstance(error, UserError):
            raise
        raise UserError(sentence) from error


@contextmanager
def _directory_of(
    source: PreTrainedModel | Path | str, revision: str | None, tokenizer: Path | str | None
) -> Iterator[tuple[Path, str]]:
    """Yield the directory of the source, and what it is called; raises UserError where it is no model."""
    if isinstance(source, str | Path):
        absent = f"{_CALL}: source: {str(source)!r} is no directory here"
        yield find_directory(str(source), revision, absent, weights=True), str(source)
        return
    if not isinstance(source, PreTrainedModel):
        raise UserError(
            f"{_CALL}: source: a {type(source).__name__} is no transformers model; give a PreTrainedModel, a directory or a "
            "name on the hub"
        )
    if revision is not None:
        raise UserError(f"{_CALL}: revision: a model in memory has none; leave it out")
    if tokenizer is not None:
        raise UserError(
            f"{_CALL}: tokenizer: rows go by token from the source's tokenizer to another, and a model in memory has none; "
            "save both into a directory and name it as the source"
        )
    if source.device.type == "meta":
        raise UserError(f"{_CALL}: source: the model is on torch's meta device and has no values; load its weights first")
    name = f"a {type(source).__name__} in memory"
    # As save_pretrained writes it: under the names of the published files, which a class may keep under others.
    with TemporaryDirectory(prefix="pipeline-grow-") as folder:
        try:
            source.save_pretrained(folder)
        except (NotImplementedError, ValueError) as error:
            raise UserError(f"{_CALL}: source: its save_pretrained does not save it ({error}); name its directory") from error
        try:
            yield Path(folder), name
        except UserError as error:
            raise UserError(str(error).replace(folder, name)) from None


def _target(target: Mapping[str, Any] | Path | str | None, sizes: Mapping[str, Any]) -> TargetConfig | Path:
    """Return the sizes that change, or the file that names them all; raises UserError where both are given."""
    if isinstance(target, str | Path):
        if sizes:
            raise UserError(f"{_CALL}: target: {target} names every size; leave out {', '.join(sizes)}")
        return Path(target)
    twice = sorted(sizes.keys() & (target or {}).keys())
    if twice:
        raise UserError(f"{_CALL}: target: {twice[0]} is given in it and as a keyword; give it once")
    # A recipe's default is to train without dropout; nothing is trained here.
    return validate(TargetConfig, {"dropout": None, **(target or {}), **sizes}, f"{_CALL}: target")


def _call(name: str, out: Path, given: Mapping[str, Any]) -> str:
    """Return the call as it was written, for the model card; options that were left at None are left out."""
    words = [repr(name), repr(str(out)), *(f"{key}={value!r}" for key, value in given.items() if value is not None)]
    return f"{_CALL}({', '.join(words)})"


def _dtype_name(dtype: torch.dtype | str | None) -> str | None:
    """Return the name of a dtype; raises UserError where weights are not written in it."""
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in FLOATS:
        raise UserError(f"{_CALL}: dtype: weights are not written as {name}; name one of {', '.join(FLOATS)}")
    return name
