"""Where a model to grow comes from, whatever its format."""

from dataclasses import replace
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.common.files import MISSING, irregular
from pipeline.common.hub import hub_remarks
from pipeline.growth.deepspeed_files import is_zero_checkpoint
from pipeline.growth.huggingface import describe_huggingface, open_huggingface
from pipeline.growth.state import Source
from pipeline.growth.trainer_checkpoints import CONFIG, newest_of_trainer, trainer_remarks
from pipeline.growth.weight_files import has_weights
from pipeline.growth.zero_checkpoint import open_zero_checkpoint

LATEST = "latest"
"""The file that names the newest of the checkpoints beside it."""

CHECKPOINTS = "checkpoints"
"""The folder of a run directory that holds its checkpoints."""

RECIPE = "recipe.yaml"
"""The file by which a run directory is known."""

_LONGEST_NAME = 255


def open_source(path: Path, *, config: Path | None = None, untrusted: bool = False, part: int = 0, parts: int = 1) -> Source:
    """Return the model in `path`: a Hugging Face directory, a checkpoint, a folder of checkpoints, or a run directory.

    Of several checkpoints it is the newest. A checkpoint is ours, or of transformers' Trainer, accelerate or DeepSpeed
    alone; `config` is the config.json, or a directory with one, of a checkpoint that has none in it or one folder up. The
    files of one of ours are compared with the digests that it was written with; `untrusted` also takes one that has lost
    them. Of `parts` processes that open it together each reads its `part` of them for that. Raises UserError where there
    is none, or none that can be read.
    """
    place = model_in(path)
    checkpoint, remarks = checkpoint_in(place), (*hub_remarks(path), *trainer_remarks(place))
    if checkpoint is not None and not checkpoint.is_dir():
        if not has_weights(place):
            raise UserError(f"{checkpoint.parent / LATEST}: names {checkpoint.name!r}, which is not there; copy it again")
        remarks += (
            f"{checkpoint.name}, the DeepSpeed checkpoint with Adam's state, is not there; the weights beside it are taken",
        )
        checkpoint = None
    if checkpoint is not None:
        remarks = trainer_remarks(checkpoint.absolute().parent)
        source = open_zero_checkpoint(checkpoint, config, untrusted=untrusted, part=part, parts=parts)
    elif config is not None:
        raise UserError(f"source.config: {place} is no DeepSpeed checkpoint and has its own {CONFIG}; leave it out (--config)")
    elif (place / RECIPE).is_file() and not (place / CONFIG).exists():
        raise UserError(f"{place / CHECKPOINTS}: the run has no checkpoint there; put it back, or name the run's model/")
    else:
        source = open_huggingface(place)
    return _with_remarks(source, *remarks)


def preview_source(path: Path, *, config: Path | None = None, untrusted: bool = False) -> Source:
    """Return what `open_source` would, or of a directory with a config.json and no weights what that describes.

    Raises UserError where there is neither.
    """
    place = model_in(path)
    if checkpoint_in(place) is None and config is None and (place / CONFIG).is_file() and not has_weights(place):
        return _with_remarks(describe_huggingface(place), *hub_remarks(place), *trainer_remarks(place))
    return open_source(path, config=config, untrusted=untrusted)


def model_in(path: Path) -> Path:
    """The directory of the model that `path` leads to: itself, or the newest checkpoint of a Trainer's output_dir.

    An output_dir with weights of its own holds the model that its training ended with.
    """
    if checkpoint_in(path) is not None or has_weights(path):
        return path
    return newest_of_trainer(path) or path


def checkpoint_in(path: Path) -> Path | None:
    """The DeepSpeed checkpoint that `path` is or leads to; None where it is something else.

    The file `latest` names it; whether it is there is not looked at. Raises UserError where that file holds no name.
    """
    if is_zero_checkpoint(path):
        return path
    for folder in filter(Path.is_dir, (path, path / CHECKPOINTS)):
        # A run's checkpoints have one among them that is named.
        run = folder.name == CHECKPOINTS and any(map(is_zero_checkpoint, folder.glob("step-*")))
        if run or irregular(folder / LATEST) != MISSING:
            return folder / _named(folder / LATEST)
    return None


def _with_remarks(source: Source, *remarks: str) -> Source:
    return replace(source, remarks=(*remarks, *source.remarks))


def _named(latest: Path) -> str:
    hint = "write into it the name of a checkpoint beside it"
    if (fault := irregular(latest)) is not None:
        raise UserError(f"{latest}: {fault}; {hint}")
    try:
        name = latest.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{latest}: cannot be read ({error}); {hint}") from None
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name) > _LONGEST_NAME:
        raise UserError(f"{latest}: holds no name of a checkpoint; {hint}")
    return name
