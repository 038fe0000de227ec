"""A document on its way from an input to a part."""

from dataclasses import dataclass, field
from typing import Any

from data_prep.text.values import as_json

_SHOWN_CHARACTERS = 200


@dataclass(slots=True)
class Document:
    """A document; steps change its text and columns in place."""

    text: str
    where: str
    """Where it stands: the file, and the line, record or row in it."""
    columns: dict[str, Any] = field(default_factory=dict)
    """What the record holds under the names in `columns`, and what steps add: it goes into reports and cleaned text."""

    dropped: str | None = None
    """Why it is dropped; None where it stays."""

    def shown(self) -> dict[str, Any]:
        """Return how a report shows it: where it stands, how it begins, its columns."""
        return {"where": self.where, "text": self.text[:_SHOWN_CHARACTERS], "columns": as_json(self.columns)}
