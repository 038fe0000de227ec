"""Folders of text: the files in them that are read, and what is left out."""

import os
from collections import defaultdict
from pathlib import Path

from data_prep.errors import UserError
from data_prep.text.kinds import KNOWN, kind_of


def files_below(folder: Path, key: str) -> tuple[list[Path], str | None]:
    """Return the files of text in a folder and in those below it, sorted by path, and what of it is left out, in words.

    Left out are hidden files and folders, links to folders, and files of other types. Raises UserError, which names `key`,
    where no file is left, and where the folder is a saved dataset.
    """
    files: list[Path] = []
    others: dict[str, list[Path]] = defaultdict(list)
    for place, folders, names in os.walk(folder, onerror=_raise):
        if "dataset_dict.json" in names or ("state.json" in names and any(name.endswith(".arrow") for name in names)):
            raise UserError(f"{place}: is a dataset that save_to_disk wrote; name it as `dataset`, not in {key}")
        for name in folders:
            path = Path(place, name)
            if name.startswith("."):
                others["hidden"].append(path)
            elif path.is_symlink():
                others["links to folders"].append(path)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in names):
            if path.name.startswith("."):
                others["hidden"].append(path)
            elif not path.is_file():
                others["not regular files"].append(path)
            elif kind_of(path) is None:
                others[f"{path.suffix} files" if path.suffix else "files without an ending"].append(path)
            else:
                files.append(path)
    left_out = ", ".join(
        f"{len(paths)} {what} (the first: {min(paths).relative_to(folder)})" for what, paths in sorted(others.items())
    )
    if not files:
        told = f"; it holds {left_out}" if left_out else ""
        raise UserError(f"{folder}: no file of text is in this folder or below it{told}; {key} reads {KNOWN}")
    return sorted(files), f"{folder}: left out are {left_out}" if left_out else None


def _raise(error: OSError) -> None:
    raise error
