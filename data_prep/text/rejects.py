"""What is not taken, and why: documents, records and whole files."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from data_prep.text.document import Document
from pipeline.common.errors import UserError

TOO_LONG = "too long"
TOO_SHORT = "too short"
OTHER_LANGUAGE = "other language"
UNCERTAIN_LANGUAGE = "uncertain language"
CONTAMINATED = "contaminated"
WHERE = "where"
"""A record that does not fulfil the corpus's condition."""
BAD_RECORD = "bad record"
BAD_FILE = "bad file"
EXACT_DUPLICATE = "exact copy"
NEAR_DUPLICATE = "near copy"
REPEATED = "repeated text"
RESERVED = {CONTAMINATED, WHERE, BAD_RECORD, BAD_FILE, EXACT_DUPLICATE, NEAR_DUPLICATE, REPEATED}
"""Reasons that no step gives."""

EXAMPLES = 5
"""Places that are kept for each reason, and passages of each evaluation set."""


class Rejects:
    """What was not taken: counts by reason, and where the first ones stand."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.shown: dict[str, list[dict[str, Any]]] = {}
        """Of documents, also how they began."""

    def add(self, reason: str, where: str) -> None:
        """Count one document, record or file."""
        self.counts[reason] += 1
        if self.counts[reason] <= EXAMPLES:
            self.examples.setdefault(reason, []).append(where)

    def add_document(self, document: Document, reason: str) -> None:
        """Count a document that is dropped, and keep how the first of a reason begin."""
        self.add(reason, document.where)
        if self.counts[reason] <= EXAMPLES:
            self.shown.setdefault(reason, []).append(document.shown())


def dropped_examples(shown: Iterable[tuple[str, Mapping[str, list[dict[str, Any]]]]]) -> list[dict[str, Any]]:
    """Return the first documents that each corpus lost for each reason, of (corpus, documents by reason)."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for corpus, documents in shown:
        for reason, more in documents.items():
            found[corpus, reason] = (found.get((corpus, reason), []) + more)[:EXAMPLES]
    return [
        {"kind": "dropped", "corpus": corpus, "reason": reason} | document
        for (corpus, reason), documents in found.items()
        for document in documents
    ]


class BadRecords:
    """Counts the records of one range that are skipped, up to a limit."""

    def __init__(self, path: str, most: int, rejects: Rejects) -> None:
        self.path = path
        self._rejects = rejects
        self._most = most
        self._count = 0

    def add(self, where: str, reason: str) -> None:
        """Count one; raises UserError where it is one too many."""
        self._count += 1
        if self._count > self._most:
            before = f", and {self._most} records before it were skipped" if self._most else ""
            raise UserError(f"{self.path}: {where}: {reason}{before}; correct the file, or set text_field or max_bad_records")
        self._rejects.add(BAD_RECORD, f"{self.path}: {where}: {reason}")

    def add_long(self, where: str) -> None:
        """Count one that is a document longer than is read; of these there may be any number."""
        self._rejects.add(TOO_LONG, f"{self.path}: {where}")


class DamagedError(Exception):
    """A file that cannot be read to its end: one sentence."""


def is_the_systems(error: Exception) -> bool:
    """Whether the system failed, rather than a library could not understand: pyarrow and gzip raise OSErrors too.

    Such an error says nothing of the file: to skip the file for it would make the output depend on the moment.
    """
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
