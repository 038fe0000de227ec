"""The page of a prepared folder: its sections, the HTML that they become, and the file."""

from collections import Counter
from pathlib import Path
from typing import Any

from data_prep.manifest import HELDOUT, MANIFEST, SPLITS, TRAIN, CorpusEntry, PreparedData
from data_prep.report import about, flow, spread, tokens
from data_prep.report.html import environment
from data_prep.report.numbers import counted, percent
from data_prep.report.parts import Section, Tile
from data_prep.report.recorded import Examples, recorded_plan
from data_prep.samples import sample_windows
from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically

_ROWS = 60
"""Corpora that have a row of their own; the others are summed."""
_FLOWS = 12
"""Corpora that have a table of their own, and whose windows are shown."""
_WINDOWS = 3


def write_page(data: PreparedData, out: Path | None) -> Path:
    """Write the page of a folder to `out`, by default `report.html` in it, and return where it is.

    The manifest does not list it, so that `verify` says the same before and after. Raises UserError where
    `out` cannot be the page, and as `build` does.
    """
    path = data.directory / "report.html" if out is None else out
    if path.is_dir():
        raise UserError(f"--out: {path} is a directory; name an HTML file")
    if not path.parent.is_dir():
        raise UserError(f"--out: {path.parent} is no directory; make it, or name another file")
    # A link would be replaced, what it leads to would not.
    own = {(data.directory / name).resolve() for name in (MANIFEST, *data.manifest.files)}
    if path.resolve() in own or path.parent.resolve() / path.name in own:
        raise UserError(f"--out: {path} is a file of the prepared text itself; name another file")
    write_atomically(path, build(data))
    return path


def build(data: PreparedData) -> str:
    """Return the page; the same folder gives the same bytes.

    Raises UserError where the examples, the plan, the tokenizer or a shard that is looked into is missing or damaged.
    """
    plan = recorded_plan(data)
    whole = flow.summed("all corpora", data.corpora)
    names = [entry.name for entry in data.corpora]
    entropy = data.unigram_entropy(data.weights) if data.weights else None
    content = {
        "kind": f"Report of the prepared text {data.directory}",
        "title": " / ".join(names) if len(names) <= 4 else f"{names[0]} / {names[1]} / {len(names) - 2} more corpora",
        "lead": [],
        "tiles": _tiles(data, whole, entropy),
        "overview": None,
        "warnings": about.warnings(data, plan),
        "sections": _sections(data, plan, whole, entropy),
    }
    return environment().get_template("corpus.html").render(content)


def _sections(data: PreparedData, plan: dict[str, Any], whole: CorpusEntry, entropy: float | None) -> list[Section]:
    examples = Examples(data)
    config = data.manifest.config
    rows, few = flow.few(data.corpora, _ROWS), flow.few(data.corpora, _FLOWS)
    text = [entry for entry in few if entry.documents_read]
    documents = {
        "overview": flow.overview_table(rows, config) if len(rows) > 1 else None,
        "flows": [flow.flow_table(entry, flow.step_names(config, entry.name)) for entry in text],
        "changed": flow.changed_table(few, config),
    }
    of_tokens = {
        "splits": tokens.splits_table(rows, about.shown_weights(data, rows)),
        "lengths": tokens.lengths_table(data, few),
    }
    lost = flow.losses(whole, flow.step_names(config, whole.name))
    duplicates = {
        "counts": Counter({loss.reason: loss.documents for loss in lost if loss.stage == flow.DUPLICATES}),
        "pairs": {kind: examples.pairs(kind) for kind in ("exact", "near")},
        "dedupe": config.dedupe,
        "removed": flow.removed_table(few),
        "repeated": examples.repeated(),
    }
    evaluation = {
        "table": spread.evaluation_table(data.manifest),
        "passages": examples.passages(),
        "decontamination": config.decontamination,
    }
    return [
        Section("about", "What it is", {"terms": about.terms(data, plan)}),
        Section("documents", "Documents, from read to kept", documents),
        Section("tokens", "Tokens", of_tokens),
        Section("lengths", "Lengths", {"table": spread.lengths_table(text)}),
        Section("languages", "Languages", {"table": spread.languages_table(text)}),
        Section("domains", "Domains", {"table": spread.domains_table(text)}),
        Section("duplicates", "Duplicates", duplicates),
        Section("evaluation", "Evaluation sets", evaluation),
        Section("dropped", "Examples of what was dropped", examples.reasons()),
        Section("vocabulary", "Vocabulary", _vocabulary(data, entropy)),
        Section("windows", "Windows of the shards", {"windows": _windows(data, few)}),
        Section("settings", "Settings", about.settings(data)),
    ]


def _tiles(data: PreparedData, whole: CorpusEntry, entropy: float | None) -> list[Tile]:
    read, kept = whole.documents_read, flow.kept(whole)
    train, heldout = whole.splits[TRAIN], whole.splits[HELDOUT]
    tiles = [Tile("Documents read", f"{read:,}"), Tile("Documents kept", f"{kept:,}", f"{percent(kept, read)} of those read")]
    if not read:
        tiles = [Tile("Documents", f"{kept:,}", "in shards that were taken as they are")]
    mean = f"{train.tokens / train.documents:,.0f} a document" if train.documents else ""
    return [
        *tiles,
        Tile("Training tokens", f"{train.tokens:,}", mean),
        Tile("Held-out tokens", f"{heldout.tokens:,}", counted(heldout.documents, "document")),
        Tile("Vocabulary", f"{data.manifest.vocab_size:,}", data.tokenizer.kind),
        *([] if entropy is None else [Tile("Unigram entropy", f"{entropy:.4f}", "nats a token")]),
    ]


def _vocabulary(data: PreparedData, entropy: float | None) -> dict[str, Any]:
    counts = tokens.training_counts(data)
    unseen, spelled = tokens.unseen(data, counts)
    return {
        "entropy": entropy,
        "frequent": tokens.frequent_table(data, counts),
        "unseen": unseen,
        "share": percent(unseen, data.manifest.vocab_size),
        "spelled": spelled,
    }


def _windows(data: PreparedData, entries: list[CorpusEntry]) -> list[tuple[str, list[str]]]:
    """Corpus and split, and its windows; the sum of many corpora has none."""
    named = {entry.name for entry in data.corpora}
    return [
        (f"{entry.name}, {split}", list(sample_windows(data, entry.splits[split], _WINDOWS)))
        for entry in entries
        for split in SPLITS
        if entry.name in named and entry.splits[split].shards
    ]
