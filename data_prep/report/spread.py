"""Documents by length, by language, by domain, by evaluation set."""

from collections import Counter
from collections.abc import Callable, Sequence

from data_prep.manifest import CorpusEntry, Manifest
from data_prep.report.numbers import Top, percent, top
from data_prep.report.parts import Bar, Grid

_ROWS = 25
_COLUMNS = 6
"""Corpora that have columns of their own."""


def lengths_table(entries: Sequence[CorpusEntry]) -> Grid | None:
    """Return cleaned documents by their characters, None where none is counted."""
    found = sum((entry.lengths for entry in entries), Counter())
    if not found:
        return None
    bits = range(min(map(int, found)), max(map(int, found)) + 1)
    bins = Top([(str(number), found[str(number)]) for number in bits], 0, 0)
    return _table("Documents by length", "characters", bins, [(entry.name, entry.lengths) for entry in entries], _range)


def languages_table(entries: Sequence[CorpusEntry]) -> Grid | None:
    """Return cleaned documents by language, None where none is known."""
    return _kinds("Documents by language", "language", [(entry.name, entry.languages) for entry in entries], str)


def domains_table(entries: Sequence[CorpusEntry]) -> Grid | None:
    """Return cleaned documents by the host of their URL, None where none is known."""
    counts = [(entry.name, entry.domains) for entry in entries]
    return _kinds("Documents by domain", "host", counts, lambda name: name or "no host in the URL")


def evaluation_table(manifest: Manifest) -> Grid | None:
    """Return the documents that share a passage with each evaluation set, None where none was looked for."""
    read = sum(entry.documents_read for entry in manifest.corpora)
    rows: list[list[str | Bar]] = []
    for name, sizes in manifest.evaluation_sets.items():
        found = Counter({entry.name: entry.contaminated[name] for entry in manifest.corpora if entry.contaminated[name]})
        most = ", ".join(f"{corpus}: {count:,}" for corpus, count in found.most_common(_COLUMNS))
        count = found.total()
        rows.append([name, f"{sizes['texts']:,}", f"{sizes['short']:,}", f"{count:,}", percent(count, read), most or "–"])
    head = ["set", "texts looked for", "too short to", "documents found", "of those read", "in"]
    return Grid("Documents that share a passage with an evaluation set", head, rows, frozenset({5})) if rows else None


def _range(bits: str) -> str:
    number = int(bits)
    return f"{2 ** (number - 1):,} to {2**number - 1:,}" if number > 1 else str(number)


def _kinds(title: str, kind: str, counts: list[tuple[str, Counter[str]]], label: Callable[[str], str]) -> Grid | None:
    found = sum((one for _, one in counts), Counter())
    return _table(title, kind, top(found, _ROWS), counts, label) if found else None


def _table(title: str, kind: str, shown: Top, counts: Sequence[tuple[str, Counter[str]]], label: Callable[[str], str]) -> Grid:
    """A row a kind: documents of all corpora, their share as a bar, and the share in each corpus where there are some."""
    have = [(name, one) for name, one in counts if one]
    columns = have if 1 < len(have) <= _COLUMNS else []
    widest = max(shown.rest, *(count for _, count in shown.named))

    def row(name: str, count: int, of_corpora: list[int]) -> list[str | Bar]:
        shares = [percent(part, one.total()) for part, (_, one) in zip(of_corpora, columns, strict=True)]
        return [name, f"{count:,}", percent(count, shown.whole), Bar(0, count / widest), *shares]

    rows = [row(label(name), count, [one[name] for _, one in columns]) for name, count in shown.named]
    if shown.kinds:
        named = {name for name, _ in shown.named}
        rest = [sum(count for name, count in one.items() if name not in named) for _, one in columns]
        rows.append(row(f"{shown.kinds:,} more", shown.rest, rest))
    return Grid(title, [kind, "documents", "share", "", *(f"of {name}" for name, _ in columns)], rows)
