"""Every key of a recipe and of a data-preparation configuration, in Markdown: `python -m pipeline.recipe.reference`.

Read from the models by which files are read: types, defaults and meanings are theirs.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from data_prep.settings import DataPrepConfig
from data_prep.steps.registry import STEPS
from pipeline.recipe.progressive import SECTION, ProgressiveConfig
from pipeline.recipe.recipe import Recipe

Schema = Mapping[str, Any]

_ROOTS: dict[str, type[BaseModel]] = {
    "Keys of a recipe": Recipe,
    SECTION: ProgressiveConfig,
    "Keys of a data preparation": DataPrepConfig,
    **{f"step {name}": step for name, step in STEPS.items()},
}
"""What is printed, by heading; below each the sections that it has and no earlier one had."""

_LEVELS = ("Keys of a recipe", "Keys of a data preparation")
"""The headings of first level."""

_INTERVALS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "up to {}", "exclusiveMaximum": "below {}"}
_WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "null"}


def schemas() -> tuple[dict[str, Schema], dict[str, str]]:
    """Return the JSON schema of every section by its class's name, and the class of each heading."""
    names, schema = models_json_schema([(model, "validation") for model in _ROOTS.values()])
    roots = {heading: names[(model, "validation")]["$ref"].rpartition("/")[2] for heading, model in _ROOTS.items()}
    return schema["$defs"], roots


def reference() -> str:
    """Return the Markdown."""
    sections, roots = schemas()
    headings = {name: heading for heading, name in roots.items()}
    headings["Step"] = f"step {next(iter(STEPS))}"
    order: dict[str, str] = {}
    for heading, root in roots.items():
        order[root] = heading
        below = "" if heading in _LEVELS else f"{heading}."
        _name_below(sections, root, below, headings, order)
    parts = []
    for name, heading in order.items():
        parts += [f"{'#' if heading in _LEVELS else '##'} {heading}", _plain(sections[name]["description"])]
        keys = sections[name].get("properties", {})
        if keys:
            required = sections[name].get("required", ())
            rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
            for key, schema in keys.items():
                default = "required" if key in required else _default(schema)
                cells = (f"`{key}`", _type(schema, headings), default, _plain(schema["description"]))
                rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
            parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _name_below(sections: Mapping[str, Schema], name: str, below: str, headings: dict[str, str], order: dict[str, str]) -> None:
    """Give the sections that a section has, and they have, headings by the first key that leads there."""
    keys = sections[name].get("properties", {})
    # What stands at a key of this level is looked for there, and not below another key.
    for key, schema in keys.items():
        if "$ref" in schema:
            headings.setdefault(next(_classes(schema)), f"{below}{key}")
    for key, schema in keys.items():
        classes = list(_classes(schema))
        for each in classes:
            heading = f"{below}{key}" + (f" ({each})" if len(classes) > 1 else "")
            if headings.setdefault(each, heading) == heading and each not in order:
                order[each] = heading
                _name_below(sections, each, f"{below}{key}.", headings, order)


def _classes(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _classes(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _classes(value)


def _default(schema: Schema) -> str:
    value = schema.get("default")
    return "its keys' defaults" if isinstance(value, dict) and value else f"`{json.dumps(value)}`"


def _type(schema: Schema, headings: Mapping[str, str]) -> str:
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(_type(each, headings) for each in schema[union]))
    if "$ref" in schema:
        heading = headings[schema["$ref"].rpartition("/")[2]]
        return f"[section](#{anchor(heading)})"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return "list of " + ", ".join(_type(each, headings) for each in items)
    if schema.get("type") == "object":
        values = schema.get("additionalProperties", {})
        return "mapping of names" + (f" to {_type(values, headings)}" if isinstance(values, dict) and values else "")
    limits = [words.format(f"{schema[key]:g}") for key, words in _INTERVALS.items() if key in schema]
    return " ".join([_WORDS.get(schema.get("type", ""), "any value"), ", ".join(limits)]).strip()


def anchor(heading: str) -> str:
    """Return the name by which links find a heading."""
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


def _plain(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    print(reference(), end="")
