"""Values of records: which one holds a document, and what text it is."""

import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any


class NoTextError(ValueError):
    """A value that is no text: what it is."""


def field_of(record: Any, name: str) -> Any:
    """Return the value under a key, or under `a.b` the value of b in that of a; None where there is none.

    A key that is spelled `a.b`, with the point in it, comes before.
    """
    rest: str | None = name
    while rest is not None and isinstance(record, Mapping):
        if rest in record:
            return record[rest]
        head, point, tail = rest.partition(".")
        record, rest = record.get(head), tail if point else None
    return None


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


def as_json(value: Any) -> Any:
    """Return a value as JSON has it: no number is NaN, no string has a lone surrogate, dates are ISO 8601's strings."""
    match value:
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
            return {as_json(str(key)): as_json(item) for key, item in value.items()}
        case list() | tuple() | set():
            return [as_json(item) for item in value]
        case _ if hasattr(value, "tolist"):  # numpy's
            return as_json(value.tolist())
        case _:
            return as_json(str(value))


def _named(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object of {', '.join(map(str, value))}"[:100]
    return {bool: "true or false", int: "a number", float: "a number", list: "a list", type(None): "null"}.get(
        type(value), type(value).__name__
    )
