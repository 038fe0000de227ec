"""Folders of text: the files in them that are read, and what is left out."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath

from data_prep.storage.stores import Remote, Source
from data_prep.text.kinds import KNOWN, find_kind
from pipeline.common.errors import UserError


def files_below(folder: Source, key: str) -> tuple[Sequence[Source], str | None]:
    """Return the files of text in a folder and in those below it, sorted by path, and what of it is left out, in words.

    Left out are hidden files and folders, links to folders, and files of other types. Raises UserError, which names `key`,
    where no file is left, and where the folder is a saved dataset.
    """
    others: dict[str, list[PurePath]] = defaultdict(list)
    files: Sequence[Source] = (
        _files_at_store(folder, key, others) if isinstance(folder, Remote) else _files_here(folder, key, others)
    )
    left_out = ", ".join(f"{len(paths)} {what} (the first: {min(paths)})" for what, paths in sorted(others.items()))
    if not files:
        holds = f"; it holds {left_out}" if left_out else ""
        raise UserError(f"{folder}: no file of text is in this folder or below it{holds}; {key} reads {KNOWN}")
    return files, f"{folder}: left out are {left_out}" if left_out else None


def _files_here(folder: Path, key: str, others: dict[str, list[PurePath]]) -> list[Path]:
    files: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=_raise):
        _refuse_dataset(place, names, key)
        for name in folders:
            path = Path(place, name)
            if name.startswith("."):
                others["hidden"].append(path.relative_to(folder))
            elif path.is_symlink():
                others["links to folders"].append(path.relative_to(folder))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in names):
            what = _other(path)
            if what != "hidden" and not path.is_file():
                what = "not regular files"
            if what is None:
                files.append(path)
            else:
                others[what].append(path.relative_to(folder))
    return sorted(files)


def _files_at_store(folder: Remote, key: str, others: dict[str, list[PurePath]]) -> list[Remote]:
    files: list[Remote] = []
    hidden: set[PurePath] = set()
    found = folder.below()
    _refuse_dataset(folder, [path.name for path in found], key)
    for path in found:
        below = PurePosixPath(*path.parts[len(folder.parts) :])
        first = next((number for number, part in enumerate(below.parts, start=1) if part.startswith(".")), None)
        if first is not None:
            hidden.add(PurePosixPath(*below.parts[:first]))
        elif (what := _other(path)) is not None:
            others[what].append(below)
        else:
            files.append(path)
    if hidden:
        others["hidden"] = list(hidden)
    return files


def _refuse_dataset(place: object, names: list[str], key: str) -> None:
    if "dataset_dict.json" in names or ("state.json" in names and any(name.endswith(".arrow") for name in names)):
        raise UserError(f"{place}: is a dataset that save_to_disk wrote; name it as `dataset`, not in {key}")


def _other(path: Source) -> str | None:
    """Why a file is left out by its name, None where it is read."""
    if path.name.startswith("."):
        return "hidden"
    if find_kind(path) is None:
        return f"{path.suffix} files" if path.suffix else "files without an ending"
    return None


def _raise(error: OSError) -> None:
    raise error
