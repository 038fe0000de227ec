"""The project's own recipes, suites and configurations, which can be named wherever a command is started."""

from pathlib import Path

BUILT_IN = Path(__file__).resolve().parents[1] / "built_in"
"""Laid out as the repository: links there, the files themselves in a wheel."""


def find_file(path: str) -> Path:
    """Return `path`, or where nothing is there the project's own file of that name, such as `ds_configs/zero3.json`."""
    own = BUILT_IN / path
    return own if own.is_file() and not Path(path).exists() else Path(path)


def names_in(folder: str) -> list[str]:
    """The names that `find_file` knows in a folder, such as `launch/recipes`, and in those below it."""
    return sorted(str(path.relative_to(BUILT_IN)) for path in (BUILT_IN / folder).rglob("*") if path.is_file())
