"""How any configuration of the project is read and refused."""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.common.errors import UserError, one_line
from pipeline.common.files import read_bytes

Model = TypeVar("Model", bound="StrictModel")
Typed = TypeVar("Typed")

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}

_NAME = re.compile(r"[A-Za-z0-9_-]+")

# To YAML 1.1 both 1e10 and 1.0e10 are strings.
_NO_NUMBER = "a number is expected, for instance 32 or 1.0e+10"


class StrictModel(BaseModel):
    """A section of a configuration file; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def other_words(cls) -> list[str]:
        """Keys that stand for the section's own."""
        return []


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping; raises UserError where it is missing or has none."""
    return _read(path, yaml.safe_load, "no such file", "YAML: {}", "a mapping")


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Return a JSON file's object; raises UserError where there is none, with `hint` where the file is missing."""
    return _read(path, json.loads, f"no such file; {hint}", "JSON ({})", "an object")


def _read(path: Path, parse: Callable[[str], Any], missing: str, unreadable: str, expected: str) -> dict[str, Any]:
    try:
        content = parse(read_bytes(path).decode())
    except FileNotFoundError:
        raise UserError(f"{path}: {missing}") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        # Of the system's errors the words alone: the sentence has the path.
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or one_line(error) or type(error).__name__
        raise UserError(f"{path}: not readable as {unreadable.format(reason)}") from None
    if not isinstance(content, dict):
        held = "nothing" if content is None else f"a {type(content).__name__}"
        raise UserError(f"{path}: {expected} of keys is expected, this file holds {held}")
    return content


def typed(kind: type[Typed], content: Any, origin: str) -> Typed:
    """Return what the project's own file holds, known to be of `kind`, a TypedDict; keys beyond its own stay.

    Raises UserError naming the first key that is missing or holds something else. Unlike `validate`, which judges what a
    person wrote, nothing is converted: "3" is no number.
    """
    try:
        if kind not in _ADAPTERS:
            _ADAPTERS[kind] = TypeAdapter(kind)
        _ADAPTERS[kind].validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        got = "" if isinstance(first["input"], dict | list) else f" (got {str(first['input'])[:80]!r})"
        raise UserError(_sentence(origin, first["loc"], first["msg"]) + got) from None
    return content


def validate(model: type[Model], content: dict[str, Any], origin: str) -> Model:
    """Return `content` as `model`; raises UserError naming the first wrong key, in words.

    `origin` is what the sentence starts with: the file that `content` was read from.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place, owner = _written(model, content, first["loc"])
        if first["type"] == "extra_forbidden":
            key = ".".join(map(str, place))
            raise UserError(unknown_key(origin, key, list(owner.model_fields), owner.other_words())) from None
        unread = first["type"] in ("int_parsing", "float_parsing")
        message = _NO_NUMBER if unread else first["msg"].removeprefix("Value error, ")
        got = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
        raise UserError(_sentence(origin, place, message) + got) from None


def _sentence(origin: str, place: Sequence[int | str], message: str) -> str:
    return ": ".join(filter(None, [origin, ".".join(map(str, place)), message]))


def unknown_key(origin: str, key: str, known: list[str], others: Sequence[str] = ()) -> str:
    """The sentence that refuses `key` and names the nearest of `known`, or of `others`, words for the same."""
    typed = key.rsplit(".", 1)[-1]
    # Another word must be much like it: who types `hidden` means hidden_size, and not DistilBERT's hidden_dim.
    close = [*difflib.get_close_matches(typed, known, cutoff=0.4), *difflib.get_close_matches(typed, others, cutoff=0.8)]
    near = [key for key in difflib.get_close_matches(typed, close, n=1, cutoff=0.4) if _alike(typed, key)]
    hint = f"did you mean {near[0]!r}?" if near else "known here: " + ", ".join(sorted([*known, *others]))
    return f"{origin}: unknown key {key!r}; {hint}"


def _alike(typed: str, key: str) -> bool:
    """Whether each word of a key is like that of the other: `hidden_act` is no misspelled `hidden_size`."""
    words = typed.split("_"), key.split("_")
    if len(words[0]) != len(words[1]):
        return True
    return all(difflib.SequenceMatcher(None, *pair).ratio() >= 0.4 for pair in zip(*words, strict=True))


def _written(model: type[StrictModel], content: Any, place: tuple[int | str, ...]) -> tuple[list[int | str], type[StrictModel]]:
    """Return where in the file an error is, and the model whose keys are known there.

    pydantic's places also name which of several models it took, here by its class.
    """
    written: list[int | str] = []
    models = [model]
    here = content
    for part in place:
        if taken := [one for one in models if one.__name__ == part]:
            models = taken
            continue
        if isinstance(part, int) and isinstance(here, dict):
            # One section that stands for a list of them.
            continue
        written.append(_called(here, part) if isinstance(here, list) and isinstance(part, int) else part)
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            here = None
        if isinstance(part, str) and models and part in models[0].model_fields:
            models = list(_models_in(models[0].model_fields[part].annotation)) or models
    return written, models[0]


def _called(items: list[Any], number: int) -> int | str:
    """What an item of a list is called: the `name` that it alone has, else its number from 0."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    # An item that is missing is past the end.
    name = names[number] if number < len(names) else None
    return name if isinstance(name, str) and _NAME.fullmatch(name) and names.count(name) == 1 else number


def _models_in(annotation: Any) -> Iterator[type[StrictModel]]:
    """The pydantic models inside an annotation such as `list[Stage] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
