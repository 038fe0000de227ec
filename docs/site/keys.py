"""Pages of configuration keys, made from the pydantic models that read them: names, types, defaults, docstrings."""

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", Any: "any value"}
_HEADER = "| key | value | default | |\n|---|---|---|---|"


@cache
def _docstrings_of(module: str) -> dict[str, dict[str, str]]:
    """Return the docstrings of the keys of each class of a module: the strings behind them."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {
        node.name: {
            key.target.id: text.value.value
            for key, text in pairwise(node.body)
            if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of each key, of the class that declares it last."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        found |= _docstrings_of(parent.__module__).get(parent.__name__, {})
    return found


def nested(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation names."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from nested(part)


def _value(annotation: Any) -> str:
    """Return what a key takes, in words; a model is a link to its section."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _value(parts[0])
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_value(part) for part in parts if part is not NoneType))
    if origin in (list, tuple, set):
        return f"list of: {_value(parts[0])}"
    if origin is dict:
        return f"mapping of {_value(parts[0])} to {_value(parts[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return f"[{title(annotation)}](#{title(annotation).lower()})"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def title(model: type[BaseModel]) -> str:
    """Return a model's name as a heading: DataConfig is Data."""
    return model.__name__.removesuffix("Config")


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined or isinstance(field.default, BaseModel) or field.default is None:
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _section(model: type[BaseModel]) -> str:
    docstrings = _docstrings(model)
    rows = [
        f"| `{name}` | {_cell(_value(field.rebuild_annotation()))} | {_cell(_default(field))} "
        f"| {_cell(field.description or docstrings.get(name, ''))} |"
        for name, field in model.model_fields.items()
    ]
    about = inspect.cleandoc(model.__doc__ or "")
    return "\n\n".join(part for part in (f"## {title(model)}", about, "\n".join([_HEADER, *rows]) if rows else "") if part)


def keys(*roots: type[BaseModel]) -> str:
    """Return a section for each model, and for each one that a section of these names, in that order."""
    models = list(roots)
    for model in models:
        for field in model.model_fields.values():
            models += [each for each in nested(field.annotation) if each not in models]
    return "\n\n".join(map(_section, dict.fromkeys(models)))
