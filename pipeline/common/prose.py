"""Paragraphs from templates: of a package's `templates`, each file has macros, and a macro's lines are paragraphs."""

from collections.abc import Callable

import jinja2


class Prose:
    """The templates of a package."""

    def __init__(self, package: str, **filters: Callable[..., object]) -> None:
        """`filters` put values into words, by the names that templates use."""
        self._environment = jinja2.Environment(loader=jinja2.PackageLoader(package), undefined=jinja2.StrictUndefined)
        self._environment.filters |= filters

    def paragraphs(self, file: str, macro: str, *facts: object) -> list[str]:
        """Return what a macro of a file makes of facts; empty lines are left out."""
        written: str = getattr(self._environment.get_template(file).module, macro)(*facts)
        return [line.strip(" ") for line in written.split("\n") if line.strip(" ")]
