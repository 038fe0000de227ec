"""The way of the documents from what was read to what is kept: what each stage took out, and why."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_prep.dedupe.filtering import REASONS
from data_prep.manifest import HELDOUT, TRAIN, CorpusEntry
from data_prep.report.numbers import percent, ratio, top
from data_prep.report.parts import Bar, Grid, share
from data_prep.settings import DataPrepConfig
from data_prep.steps.deduplicate import Deduplicate
from data_prep.text.rejects import BAD_FILE, CONTAMINATED

READING, STEPS, DECONTAMINATION, DUPLICATES = "reading", "steps", "evaluation sets", "duplicates"
STAGES = (READING, STEPS, DECONTAMINATION, DUPLICATES)
"""In their order."""
_LATER = (BAD_FILE, CONTAMINATED, *REASONS.values())
"""What is not dropped in reading or by a step."""
_REASONS = 12
"""Reasons of a step, or of a stage without steps, that have a row of their own."""


@dataclass(frozen=True)
class Loss:
    """Documents that went for one reason."""

    stage: str
    step: str
    """Empty where no step took them out."""
    reason: str
    documents: int


def losses(entry: CorpusEntry, steps: Sequence[str]) -> list[Loss]:
    """Return what a corpus lost, in the order of the stages and of `steps`; files that were skipped are no documents.

    What an earlier version dropped in its steps, of which it recorded the reasons alone, is lost in reading.
    """
    others = entry.dropped - sum(entry.dropped_by.values(), Counter())
    read = Counter({reason: count for reason, count in others.items() if reason not in _LATER})
    later = [(DECONTAMINATION, CONTAMINATED), *((DUPLICATES, reason) for reason in REASONS.values())]
    place = list(steps).index(Deduplicate.name) if Deduplicate.name in steps else len(steps)
    # What documents meet behind deduplication alone.
    late = {*steps[place:]} - {*steps[:place]}
    by_step = [loss for name in _ordered(entry.dropped_by, steps) for loss in _named(STEPS, name, entry.dropped_by[name])]
    return [
        *_named(READING, "", read),
        *(loss for loss in by_step if loss.step not in late),
        *(Loss(stage, "", reason, others[reason]) for stage, reason in later if others[reason]),
        *(loss for loss in by_step if loss.step in late),
    ]


def _ordered(names: Iterable[str], steps: Sequence[str]) -> list[str]:
    """Names of steps in the order of `steps`, others last."""
    return sorted(names, key=lambda name: steps.index(name) if name in steps else len(steps))


def _named(stage: str, step: str, reasons: Counter[str]) -> list[Loss]:
    shown = top(+reasons, _REASONS)
    rest = [(f"{shown.kinds:,} other reasons", shown.rest)] if shown.kinds else []
    return [Loss(stage, step, reason, count) for reason, count in [*shown.named, *rest]]


def step_names(config: DataPrepConfig, corpus: str) -> list[str]:
    """Return the names of a corpus's steps in their order; of all corpora's, where it is the sum of several."""
    asked = [one for one in config.corpora if one.name == corpus] or config.corpora
    return list(dict.fromkeys(next(iter(step.entry())) for one in asked for step in one.all_steps))


def kept(entry: CorpusEntry) -> int:
    """Return the documents of both splits."""
    return sum(split.documents for split in entry.splits.values())


def flow_table(entry: CorpusEntry, steps: Sequence[str]) -> Grid:
    """Return the documents of a corpus from those read to those kept, with what went in between."""
    read = left = entry.documents_read

    def row(name: str, count: int, begin: int = 0, lost: bool = False) -> list[str | Bar]:
        return [name, f"{count:,}", percent(count, read), Bar(ratio(begin, read), ratio(begin + count, read), lost)]

    rows = [row("read", read)]
    for loss in losses(entry, steps):
        by = f"{loss.step or loss.stage}: "
        left -= loss.documents
        # Some steps name themselves.
        rows.append(row(f"−\N{NO-BREAK SPACE}{by}{loss.reason.removeprefix(by)}", loss.documents, left, lost=True))
    train, heldout = entry.splits[TRAIN].documents, entry.splits[HELDOUT].documents
    rows += [
        row("=\N{NO-BREAK SPACE}kept", left),
        row("of these to train on", train),
        row("of these held out", heldout, train),
    ]
    notes = [] if left == kept(entry) else [f"The shards hold {kept(entry):,} documents: the counts of the manifest disagree."]
    if entry.dropped[BAD_FILE]:
        notes.append(f"Files that were skipped, or read to where they are damaged: {entry.dropped[BAD_FILE]:,}.")
    return Grid(f"{entry.name}: documents", ["", "documents", "of those read", ""], rows, notes=notes)


def overview_table(entries: Sequence[CorpusEntry], config: DataPrepConfig) -> Grid:
    """Return each corpus's documents in a row, and their sum."""
    rows: list[list[str | Bar]] = []
    for entry in [*entries, *([summed("all corpora", entries)] if len(entries) > 1 else [])]:
        lost: Counter[str] = Counter()
        for loss in losses(entry, step_names(config, entry.name)):
            lost[loss.stage] += loss.documents
        read, whole = entry.documents_read, kept(entry)
        went = [f"{lost[stage]:,}" for stage in STAGES]
        bar = Bar(0, min(ratio(whole, read), 1))
        rows.append([entry.name, f"{read:,}" if read else "–", *went, f"{whole:,}", percent(whole, read), bar])
    stages = [f"−\N{NO-BREAK SPACE}{stage}" for stage in STAGES]
    note = "A corpus of shards that were taken as they are has no documents that were read."
    return Grid(
        "Documents of each corpus, and where they went",
        ["corpus", "read", *stages, "=\N{NO-BREAK SPACE}kept", "of those read", ""],
        rows,
        notes=[note] if any(not entry.documents_read and kept(entry) for entry in entries) else [],
    )


def changed_table(entries: Sequence[CorpusEntry], config: DataPrepConfig) -> Grid | None:
    """Return how many documents each step changed, or None where none did."""
    rows: list[list[str | Bar]] = [
        [entry.name, name, f"{entry.changed[name]:,}", *share(entry.changed[name], entry.documents_read)]
        for entry in entries
        for name in _ordered(entry.changed, step_names(config, entry.name))
    ]
    head = ["corpus", "step", "documents changed", "of those read", ""]
    return Grid("Documents that each step changed", head, rows, frozenset({1})) if rows else None


def removed_table(entries: Sequence[CorpusEntry]) -> Grid | None:
    """Return what documents that stay lost of lines and paragraphs, or None where none did."""
    rows = [
        [entry.name, *(f"{entry.removed[unit]:,}" for unit in ("lines", "paragraphs", "characters"))]
        for entry in entries
        if entry.removed
    ]
    return Grid("Removed of documents that stay", ["corpus", "lines", "paragraphs", "characters"], rows) if rows else None


def few(entries: Sequence[CorpusEntry], most: int) -> list[CorpusEntry]:
    """Return corpora in their order, of many those with the most documents and, last, the sum of the others."""
    if len(entries) <= most + 1:
        return list(entries)
    largest = sorted(entries, key=lambda entry: -max(entry.documents_read, kept(entry)))[:most]
    names = {entry.name for entry in largest}
    rest = [entry for entry in entries if entry.name not in names]
    return [*(entry for entry in entries if entry.name in names), summed(f"{len(rest):,} other corpora", rest)]


def summed(name: str, entries: Sequence[CorpusEntry]) -> CorpusEntry:
    """Return several corpora as if they were one."""
    whole = entries[0].model_copy(update={"name": name, "weight": None}, deep=True)
    for entry in entries[1:]:
        whole.documents_read += entry.documents_read
        whole.add(dict(entry))
        for split, shards in entry.splits.items():
            whole.splits[split].shards.extend(shards.shards)
    return whole
