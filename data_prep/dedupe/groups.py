"""Neighbouring parts that are worked on together, so that there are not too many files to look into."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.text.document_parts import DocumentPart

GROUPS = 1024
"""About as many at most: other stages open a file of each for a range of keys, or for some thousand documents."""


@dataclass(frozen=True, slots=True)
class Group:
    """Parts in ascending order; others may lie between them."""

    parts: Sequence[DocumentPart]

    @property
    def name(self) -> str:
        """The name of the first part."""
        return self.parts[0].name

    @property
    def first(self) -> int:
        """The number of the first document."""
        return self.parts[0].first

    @property
    def stop(self) -> int:
        """The number behind the last document's."""
        return self.parts[-1].first + self.parts[-1].documents

    @property
    def documents(self) -> int:
        """How many documents the parts hold."""
        return sum(part.documents for part in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes of text."""
        return sum(part.bytes for part in self.parts)


def grouped(parts: Sequence[DocumentPart], documents: int) -> list[Group]:
    """Return the parts in groups of equally many, about GROUPS in all; none but a single part has more than `documents`."""
    most = -(-len(parts) // GROUPS)
    groups: list[list[DocumentPart]] = []
    held = 0
    for part in parts:
        held += part.documents
        if not groups or len(groups[-1]) == most or held > documents:
            groups.append([])
            held = part.documents
        groups[-1].append(part)
    return [Group(parts) for parts in groups]
