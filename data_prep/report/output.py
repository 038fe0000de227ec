"""The page as a file."""

from pathlib import Path

from data_prep.manifest import MANIFEST, PreparedData
from data_prep.report.page import build
from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically

PAGE = "report.html"


def write_page(data: PreparedData, out: Path | None) -> Path:
    """Write the page of a folder to `out`, by default `report.html` in it, and return where it is.

    It is none of the files that the manifest lists, so that `verify` says the same before and after. Raises UserError where
    `out` cannot be the page, and as `build` does.
    """
    path = data.directory / PAGE if out is None else out
    if path.is_dir():
        raise UserError(f"--out: {path} is a directory; name an HTML file")
    if not path.parent.is_dir():
        raise UserError(f"--out: {path.parent} is no directory; make it, or name another file")
    # A link would be replaced, what it leads to would not.
    own = {(data.directory / name).resolve() for name in (MANIFEST, *data.manifest.files)}
    if path.resolve() in own or path.parent.resolve() / path.name in own:
        raise UserError(f"--out: {path} is a file of the prepared text itself; name another file")
    write_atomically(path, build(data))
    return path
