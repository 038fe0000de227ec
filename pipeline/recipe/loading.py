"""From a YAML file and overrides on the command line to a recipe."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.common.config import read_yaml, validate
from pipeline.common.errors import UserError
from pipeline.recipe import progressive
from pipeline.recipe.models import shared_word
from pipeline.recipe.recipe import Recipe


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Return the recipe in `path` with `key.sub=value` overrides applied; values are YAML.

    Raises UserError naming the file, the key and what to do.
    """
    written = read_yaml(path)
    content = _overridden(written, overrides)
    try:
        return read_recipe(content, str(path))
    except UserError:
        # Where the file alone is valid, the command line is at fault.
        read_recipe(written, str(path))
    try:
        return read_recipe(content, "command line")
    except UserError as error:
        raise UserError(f"{error}{_instead(written, overrides)}") from None


def read_recipe(content: dict[str, Any], origin: str) -> Recipe:
    """Return the recipe that a mapping of keys says, a `progressive` section written out.

    Raises UserError, which begins with `origin` and names the key and its valid values.
    """
    return validate(Recipe, progressive.written_out(content, origin)[0], origin)


def taken_by_auto(path: Path, overrides: list[str]) -> list[str]:
    """Return what a `progressive` section of the recipe left open, each with what was taken and why."""
    return progressive.written_out(_overridden(read_yaml(path), overrides), str(path))[1]


def as_written(path: Path, overrides: list[str]) -> Callable[[str], str]:
    """Return what gives a message on the recipe in `path` the keys that stand there, where a `progressive` section has some."""
    try:
        return progressive.as_written(_overridden(read_yaml(path), overrides))
    except UserError:
        return str


def _overridden(written: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    content = copy.deepcopy(written)
    said: dict[str, str] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"{override}: not an override; write key.sub=value, for instance optimizer.lr=3e-4")
        before = said.setdefault(_shared(key), override)
        other, _, its_value = before.partition("=")
        if other != key and its_value != value:
            raise UserError(f"{before} {override}: both set the same size; leave one out")
        _set(content, key, _parse(value))
    return content


def _shared(key: str) -> str:
    """A dotted key, its last part in the word that all families share."""
    section, dot, last = key.rpartition(".")
    return f"{section}{dot}{shared_word(last)}"


def _instead(written: dict[str, Any], overrides: list[str]) -> str:
    """Say what to write where a single override clashes with a key that the file has beside it."""
    for number, override in enumerate(overrides):
        key, _, value = override.partition("=")
        section, _, last = key.rpartition(".")
        whole = f"{section}={{{last}: {value}}}"
        others = overrides[:number] + overrides[number + 1 :]
        if _holds(written, others) and _holds(written, [whole, *others]):
            return f"; {whole}, given first, replaces the whole section"
    return ""


def _holds(written: dict[str, Any], overrides: list[str]) -> bool:
    try:
        read_recipe(_overridden(written, overrides), "")
    except UserError:
        return False
    return True


def _parse(value: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    if isinstance(parsed, str):  # YAML 1.1 takes 3e-4 for a string
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _set(content: dict[str, Any] | list[Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    here: Any = content
    for parent in parents:
        here = here[_index(here, parent, key)] if isinstance(here, list) else here.setdefault(parent, {})
        if not isinstance(here, dict | list):
            raise UserError(f"{key}={value}: {parent!r} is a single value, which has no keys")
    if isinstance(here, dict):
        # What the file says of the size in another word.
        for other in [other for other in here if other != last and _shared(other) == _shared(last)]:
            del here[other]
    here[_index(here, last, key) if isinstance(here, list) else last] = value


def _index(items: list[Any], part: str, key: str) -> int:
    """The place of a list's item, by number or by its `name`."""
    for number, item in enumerate(items):
        if part == str(number) or (isinstance(item, dict) and item.get("name") == part):
            return number
    raise UserError(f"{key}: the list has {len(items)} items and none is {part!r}; count from 0 or use an item's name")
