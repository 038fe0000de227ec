"""Models and tokenizers by their names on the Hugging Face hub: through huggingface_hub into its cache, directories then."""

import re
from pathlib import Path

from pipeline.common.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

# A repository may hold the same weights in several formats, and code.
_DESCRIPTION = ["*.json", "*.txt", "*.model", "*.jinja"]
_WEIGHTS = (["model.safetensors", "model-*-of-*.safetensors"], ["pytorch_model.bin", "pytorch_model-*-of-*.bin"])
"""As transformers names them, the format that is preferred first."""


def find_directory(name: str, revision: str | None, absent: str, *, weights: bool) -> Path:
    """Return a directory of this name, or else the snapshot of the hub's model of this name: in the cache, or downloaded to it.

    A snapshot has the configuration and the tokenizer, and with `weights` those too. `absent` is the beginning of the
    sentence that says that there is no such directory. Raises UserError where the hub has no such model or revision, does
    not give it, or cannot be reached, and where a directory is given a `revision`. A path that is no name of the hub's is
    returned as it is.
    """
    if Path(name).exists() or _NAME.fullmatch(name) is None:
        # Of a snapshot that is named as the directory that it is, the revision is its commit.
        if revision not in (None, commit_of(Path(name))):
            raise UserError(f"{name}: is no name on the Hugging Face hub, so it has no revision {revision!r}; leave that out")
        return Path(name)
    from pipeline.common.hub_download import download

    snapshot = download(name, revision, absent, [*_DESCRIPTION, *(_WEIGHTS[0] if weights else [])])
    if weights and not any(any(snapshot.glob(pattern)) for pattern in _WEIGHTS[0]):
        # By its commit: the branch may move in between.
        snapshot = download(name, commit_of(snapshot), absent, [*_DESCRIPTION, *_WEIGHTS[1]])
    return snapshot


def commit_of(directory: Path) -> str | None:
    """The commit of a snapshot in huggingface_hub's cache; None of any other directory."""
    return directory.name if _repository(directory) is not None else None


def hub_remarks(directory: Path) -> tuple[str, ...]:
    """Return what a snapshot in huggingface_hub's cache is of, as a remark; none of any other directory."""
    name = _repository(directory)
    return () if name is None else (f"the Hugging Face hub's {name} at commit {directory.name}",)


def _repository(directory: Path) -> str | None:
    """The name of the model whose snapshot this is, by the layout of the cache: models--OWNER--NAME/snapshots/COMMIT."""
    kind, *name = directory.parent.parent.name.split("--")
    return "/".join(name) if kind == "models" and name and directory.parent.name == "snapshots" else None
