"""What a folder records beside its manifest: examples of what was dropped, and the plan."""

import json
from collections import Counter
from typing import Any

from data_prep.manifest import MANIFEST, PLAN, PreparedData
from data_prep.summary import REPORT
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest, read_bytes

_PAIRS = 8
_REASONS = 20
_EACH = 5
"""Examples of a reason."""
_CHARACTERS = 200
"""Of a column's value."""


class Examples:
    """What `dropped.jsonl` shows.

    An excerpt is a document, or a passage of one: `corpus`, `where`, `text` and `columns`, pairs of strings.
    """

    def __init__(self, data: PreparedData) -> None:
        """Read it; raises UserError where it is missing or damaged."""
        self._entries = data.corpora
        self._lines: list[dict[str, Any]] = [json.loads(line) for line in (_listed(data, REPORT) or b"").splitlines()]

    def pairs(self, kind: str) -> list[dict[str, Any]]:
        """Return copies of a kind, `exact` or `near`: `similarity`, and excerpts of what is `dropped` and what is `kept`."""
        return [
            {"similarity": line["similarity"], "dropped": _excerpt(line), "kept": _excerpt(line, "kept_")}
            for line in self._of(kind)[:_PAIRS]
        ]

    def repeated(self) -> list[tuple[int, dict[str, Any]]]:
        """Return lines or paragraphs that were removed, and in how many documents each stood."""
        return [(line["documents"], _excerpt(line)) for line in self._of("repeated")[:_PAIRS]]

    def passages(self) -> list[tuple[str, dict[str, Any]]]:
        """Return evaluation sets, and passages of them that documents hold."""
        return [(line["set"], _excerpt({**line, "text": line.get("passage")})) for line in self._of("contaminated")]

    def reasons(self) -> dict[str, Any]:
        """Return the `reasons` with the most documents, with examples of each, and how many `more` there are."""
        counts: Counter[str] = Counter()
        for entry in self._entries:
            counts.update({reason: entry.dropped[reason] for reason in entry.examples})
        names = sorted(counts, key=lambda name: (-counts[name], name))
        shown = [self._reason(name) | {"name": name, "count": counts[name]} for name in names[:_REASONS]]
        return {"reasons": shown, "more": len(names) - len(shown)}

    def _reason(self, name: str) -> dict[str, Any]:
        """Excerpts of documents, and corpora and places of examples whose text is not recorded."""
        documents = [_excerpt(line) for line in self._of("dropped") if line["reason"] == name]
        shown = {(document["corpus"], document["where"]) for document in documents}
        places = [(entry.name, place) for entry in self._entries for place in entry.examples.get(name, [])]
        others = [place for place in places if place not in shown]
        return {"documents": documents[:_EACH], "places": others[: _EACH - len(documents)]}

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self._lines if line["kind"] == kind]


def _excerpt(line: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A document of a line; an earlier version's has neither place nor columns."""
    columns = [(name, _cut(value)) for name, value in (line.get(f"{prefix}columns") or {}).items()]
    return {key: line.get(prefix + key) or "" for key in ("corpus", "where", "text")} | {"columns": columns}


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _CHARACTERS else text[:_CHARACTERS] + "…"


def recorded_plan(data: PreparedData) -> dict[str, Any]:
    """Return the frozen plan as the folder holds it; raises UserError where it is missing or damaged."""
    return json.loads(_listed(data, PLAN) or "{}")


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
