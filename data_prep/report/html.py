"""Templates into HTML: whatever a text holds, it is shown and does nothing."""

import re
from typing import Any

import jinja2

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
"""Control characters but tabs and line ends, marks that turn the direction of what follows, and what is no character."""


def environment(*packages: str) -> jinja2.Environment:
    """Return the templates of `packages`, each of which comes before those behind it, and of this package at last.

    Values are escaped in HTML, and not in plain text (`.txt`).
    """
    loaders = [jinja2.PackageLoader(package) for package in (*packages, "data_prep.report")]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        finalize=_visible,
    )


def _visible(value: Any) -> Any:
    """A text, with its control characters as their codes; they would be lost, be refused, or change the text around them."""
    # Markup, which is made of texts that were seen here, is a str too.
    return _CONTROLS.sub(lambda found: f"[U+{ord(found.group()):04X}]", value) if type(value) is str else value
