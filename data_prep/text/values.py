"""Values of records: which one holds a document, and what text it is."""

import json
import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID


class NoTextError(ValueError):
    """A value that is no text: what it is."""


class NotJsonError(ValueError):
    """A value that JSON does not have: what it is."""


def field_of(record: Any, name: str, absent: Any = None) -> Any:
    """Return the value under a key, or under `a.b` the value of b in that of a; `absent` where there is none.

    A key that is spelled `a.b`, with the point in it, comes before.
    """
    rest: str | None = name
    while rest is not None and isinstance(record, Mapping):
        if rest in record:
            return record[rest]
        head, point, tail = rest.partition(".")
        record, rest = record.get(head), tail if point else None
    return absent


def as_text(value: Any) -> str:
    """Return a value's text: a string, UTF-8 in bytes, or a list of these, a line each.

    Raises NoTextError, which says what it is instead.
    """
    match value:
        case str():
            return value
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise NoTextError("not UTF-8") from None
        case list():
            # A null among paragraphs may be a lost one: such a record is as bad as one without text.
            if not all(isinstance(item, str | bytes) for item in value):
                what = next(_named(item) for item in value if not isinstance(item, str | bytes))
                raise NoTextError(f"no text but a list with {what} in it")
            return "\n".join(map(as_text, value))
        case None:
            raise NoTextError("no text")
        case _:
            raise NoTextError(f"no text but {_named(value)}")


_DEEPEST = 100
"""Levels of lists and objects in a column: json.dumps ends at Python's limit of calls."""
_LARGEST = 1 << 64
"""Whole numbers from here on are what no other reader of JSON takes, and json.dumps refuses those of 4,300 digits."""


def as_json(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it: no number is NaN, no string has a lone surrogate, dates are ISO 8601's strings.

    It depends on the value alone: a set is sorted, and raises NotJsonError for what JSON has nothing for, since the address
    in `<object at 0x7f0a>` differs from run to run, and for what lies too deep.
    """
    if depth > _DEEPEST:
        raise NotJsonError(f"lists or objects more than {_DEEPEST} deep")
    match value:
        case int() if abs(value) >= _LARGEST:
            raise NotJsonError("a whole number of more than 64 bits")
        case None | bool() | int():
            return value
        case float() | Decimal():
            return float(value) if math.isfinite(value) else None
        case str():
            return value if value.isascii() else value.encode("utf-8", "replace").decode()
        case bytes():
            return value.decode("utf-8", "replace")
        case date() | time():
            return value.isoformat()
        case Mapping():
            return {as_json(str(key)): as_json(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [as_json(item, depth + 1) for item in value]
        case set() | frozenset():
            return sorted((as_json(item, depth + 1) for item in value), key=json.dumps)
        case timedelta() | UUID():
            return str(value)
        case _ if hasattr(value, "tolist"):  # numpy's
            return as_json(value.tolist(), depth + 1)
        case _:
            raise NotJsonError(f"a value of the type {type(value).__name__}")


def _named(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object of {', '.join(map(str, value))}"[:100]
    return {bool: "true or false", int: "a number", float: "a number", list: "a list", type(None): "null"}.get(
        type(value), type(value).__name__
    )
