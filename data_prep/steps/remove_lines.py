"""Step `remove_lines`: lines in which an expression is found."""

import re
from functools import cached_property
from typing import Annotated

from pydantic import Field, field_validator

from data_prep.steps.base import Step
from data_prep.text.document import Document


class RemoveLines(Step, name="remove_lines"):
    """Remove the lines in which one of the regular expressions is found."""

    patterns: Annotated[list[str], Field(min_length=1)]
    """Regular expressions of Python."""

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        return patterns

    @cached_property
    def _compiled(self) -> list[re.Pattern[str]]:
        # One by one: joined, a pattern's flags and group numbers would be others.
        return [re.compile(pattern) for pattern in self.patterns]

    def __call__(self, document: Document) -> None:
        """Remove the lines."""
        lines = document.text.split("\n")
        document.text = "\n".join(line for line in lines if not any(each.search(line) for each in self._compiled)).strip()
