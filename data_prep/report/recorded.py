"""What a folder records beside its manifest: examples of what was dropped, and the plan."""

import json
from dataclasses import dataclass
from typing import Any

from data_prep.manifest import MANIFEST, PLAN, PreparedData
from data_prep.summary import REPORT
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest, read_bytes

_PAIRS = 8
_REASONS = 20
_CHARACTERS = 200
"""Of a column's value."""


@dataclass(frozen=True)
class Excerpt:
    """A document, or a passage of one."""

    corpus: str
    where: str
    text: str
    columns: list[tuple[str, str]]


@dataclass(frozen=True)
class Pair:
    """A copy, and what stays for it."""

    similarity: float
    dropped: Excerpt
    kept: Excerpt


@dataclass(frozen=True)
class Reason:
    """Examples of what was dropped for one reason, by one corpus or several."""

    name: str
    count: int
    documents: list[Excerpt]
    places: list[tuple[str, str]]
    """Corpora and places of examples whose text is not recorded."""


class Examples:
    """What `dropped.jsonl` shows."""

    def __init__(self, data: PreparedData) -> None:
        """Read it; raises UserError where it is missing or damaged."""
        content = _listed(data, REPORT)
        self._entries = data.corpora
        self._lines: list[dict[str, Any]] = [] if content is None else [json.loads(line) for line in content.splitlines()]

    def pairs(self, kind: str) -> list[Pair]:
        """Return copies of a kind, `exact` or `near`, beside what stays for them."""
        return [
            Pair(line["similarity"], _excerpt(line), _excerpt({key: line.get(f"kept_{key}") for key in _OF_A_DOCUMENT}))
            for line in self._of(kind)[:_PAIRS]
        ]

    def repeated(self) -> list[tuple[int, Excerpt]]:
        """Return lines or paragraphs that were removed, and in how many documents each stood."""
        return [(line["documents"], _excerpt(line)) for line in self._of("repeated")[:_PAIRS]]

    def passages(self) -> list[tuple[str, Excerpt]]:
        """Return evaluation sets, and passages of them that documents hold."""
        return [(line["set"], _excerpt({**line, "text": line.get("passage")})) for line in self._of("contaminated")]

    def reasons(self) -> dict[str, Any]:
        """Return the `reasons` with the most documents, with examples of each, and how many `more` there are."""
        counts: dict[str, int] = {}
        for entry in self._entries:
            for reason in entry.examples:
                counts[reason] = counts.get(reason, 0) + entry.dropped[reason]
        names = sorted(counts, key=lambda name: (-counts[name], name))
        shown = [self._reason(name, counts[name]) for name in names[:_REASONS]]
        return {"reasons": shown, "more": len(names) - len(shown)}

    def _reason(self, name: str, count: int) -> Reason:
        documents = [_excerpt(line) for line in self._of("dropped") if line["reason"] == name]
        shown = {(document.corpus, document.where) for document in documents}
        places = [(entry.name, place) for entry in self._entries for place in entry.examples.get(name, [])]
        return Reason(
            name, count, documents[:_EACH], [place for place in places if place not in shown][: _EACH - len(documents)]
        )

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self._lines if line["kind"] == kind]


_OF_A_DOCUMENT = ("corpus", "where", "text", "columns")
_EACH = 5
"""Examples of a reason."""


def _excerpt(line: dict[str, Any]) -> Excerpt:
    """A document of a line; an earlier version's has neither place nor columns."""
    columns = [(name, _cut(value)) for name, value in (line.get("columns") or {}).items()]
    return Excerpt(line.get("corpus") or "", line.get("where") or "", line.get("text") or "", columns)


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _CHARACTERS else text[:_CHARACTERS] + "…"


def recorded_plan(data: PreparedData) -> dict[str, Any]:
    """Return the frozen plan as the folder holds it; raises UserError where it is missing or damaged."""
    content = _listed(data, PLAN)
    return {} if content is None else json.loads(content)


def _listed(data: PreparedData, name: str) -> bytes | None:
    """A file's bytes, None where the folder never had it; raises UserError where they are not those that were written."""
    if name not in data.manifest.files:
        return None
    path = data.directory / name
    remedy = "put it back, or prepare the text again"
    try:
        content, digest = read_bytes(path), file_digest(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, and {MANIFEST} lists it; {remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if digest != data.manifest.files[name]:
        raise UserError(f"{path}: was changed after it was written (its hash is not the one in {MANIFEST}); {remedy}")
    return content
