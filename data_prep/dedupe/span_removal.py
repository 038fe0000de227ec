"""Stage `rewrite`: parts without the lines or paragraphs that are removed."""

from collections import Counter
from typing import Any

import numpy as np

from data_prep.dedupe.deduplicate import Decisions
from data_prep.dedupe.filtering import REASONS, REPEATED_TEXT
from data_prep.dedupe.kernels import find_pairs
from data_prep.dedupe.records import begins
from data_prep.dedupe.repeats import Repeats
from data_prep.dedupe.span_hashes import SpanHashes
from data_prep.dedupe.spans import SpanFinder, Spans, without_lines
from data_prep.plans.plan import Plan
from data_prep.settings import CorpusConfig
from data_prep.stages.rewriting import Rewriting
from data_prep.steps.sequence import is_short
from data_prep.text.document import Document
from data_prep.text.document_parts import DocumentPart, DocumentParts


class Rewrite(Rewriting):
    """Removes spans; a document of which less is left than its corpus keeps is dropped, whole."""

    name = "rewrite"
    decision = REPEATED_TEXT

    def __init__(self, plan: Plan, parts: DocumentParts, decisions: Decisions, hashes: SpanHashes, repeats: Repeats) -> None:
        super().__init__(plan, parts, decisions, lambda corpus: corpus.dedupe_spans is not None)
        self._hashes = hashes
        self._repeats = repeats

    def change(self, part: DocumentPart) -> "_WithoutSpans":
        """Return what removes the spans that the part loses."""
        places, keeps = self._repeats.of(part)
        lost = self._hashes.table(part)[places]
        unit = self._hashes.options[part.corpus].unit
        return _WithoutSpans(self._plan.corpus(part.corpus), unit, self._hashes.finder(part), lost, keeps)


class _WithoutSpans:
    def __init__(self, corpus: CorpusConfig, unit: str, find: SpanFinder, lost: np.ndarray, keeps: np.ndarray) -> None:
        """`lost` are the spans that the part loses (SPAN), `keeps` whether the first document of the part keeps each."""
        self._corpus = corpus
        self._unit = unit
        self._find = find
        self._high, self._low = np.ascontiguousarray(lost["high"]), np.ascontiguousarray(lost["low"])
        self._kept_in = np.where(keeps, lost["row"].astype(np.int64), -1)
        self._removed: Counter[str] = Counter()
        self._changed = 0

    def __call__(self, batch: list[tuple[int, Document]]) -> None:
        found = self._lost(self._find([document.text for _, document in batch]), [row for row, _ in batch])
        for row, document in batch:
            if row not in found:
                continue
            lines = np.concatenate([np.arange(begin, stop) for begin, stop in found[row].tolist()])
            rest = Document(without_lines(document.text, lines), document.where)
            if is_short(rest, self._corpus):
                document.dropped = REASONS[REPEATED_TEXT]
                continue
            self._changed += 1
            self._removed[f"{self._unit}s"] += len(found[row])
            self._removed["characters"] += len(document.text) - len(rest.text)
            document.text = rest.text

    def facts(self) -> dict[str, Any]:
        return {"changed": {"dedupe_spans": self._changed}, "removed": dict(self._removed)}

    def _lost(self, spans: Spans, rows: list[int]) -> dict[int, np.ndarray]:
        """Return the spans that documents lose, (first line, line behind the last one), by the documents' rows in the part."""
        places = np.empty(len(spans.high), dtype=np.int64)
        find_pairs(spans.high, spans.low, self._high, self._low, places)
        row = np.repeat(rows, spans.counts)
        is_lost = places >= 0
        is_lost[is_lost] = self._kept_in[places[is_lost]] != row[is_lost]
        row, lines = row[is_lost], spans.lines[is_lost]
        starts = np.flatnonzero(begins(row))
        return dict(zip(row[starts].tolist(), np.split(lines, starts[1:]), strict=True)) if len(row) else {}
