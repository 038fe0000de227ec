"""What a prepared folder is: where its text is from, and by which settings, tokenizer and libraries it was made."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from data_prep.manifest import MANIFEST, TRAIN, CorpusEntry, PreparedData
from data_prep.report.numbers import counted
from data_prep.text.rejects import BAD_FILE

_LINES = 120
"""Of the settings."""
_OF_A_KIND = 10
"""Warnings of one kind."""


def terms(data: PreparedData, plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of a folder, by name; `plan` is the frozen one, empty where there is none."""
    manifest = data.manifest
    written = datetime.fromtimestamp((data.directory / MANIFEST).stat().st_mtime, UTC)
    # Each file with its hash; an earlier version has no class before them.
    files = [word.partition(":")[0] for word in manifest.tokenizer.split() if ":" in word]
    inputs = plan.get("inputs", [])
    found = [
        ("folder", str(data.directory)),
        ("fingerprint", manifest.fingerprint),
        ("manifest written", f"{written:%Y-%m-%d %H:%M} UTC, by the file's time"),
        ("format", str(manifest.format or "of an earlier version, which did not say")),
        ("inputs", f"{len(inputs):,}, {sum(each['size'] for each in inputs):,} bytes" if inputs else "not recorded"),
        ("tokenizer", f"{data.tokenizer.kind}, {counted(manifest.vocab_size, 'id')}"),
        ("tokenizer's files", ", ".join(files)),
        ("sequences", f"a sequence is a {manifest.config.sequences}"),
    ]
    if manifest.encoding is not None:
        found.append(("encoding", manifest.encoding.lines()[-1]))
    libraries = plan.get("libraries") or {}
    if libraries:
        found.append(("libraries of the steps", ", ".join(f"{name} {version}" for name, version in libraries.items())))
    return found


def settings(data: PreparedData) -> dict[str, Any]:
    """Return the `settings` that differ from the defaults, as YAML, and how many `more` lines of it are left out."""
    given = data.manifest.config.model_dump(mode="json", exclude_defaults=True, exclude={"output_dir"})
    lines = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=100).splitlines()
    return {"settings": "\n".join(lines[:_LINES]), "more": len(lines[_LINES:])}


def warnings(data: PreparedData, plan: dict[str, Any]) -> list[str]:
    """Return what a reader of the page should know first; `plan` is the frozen one, empty where there is none."""
    manifest, decontamination = data.manifest, data.manifest.config.decontamination
    lines = list(data.remarks)
    if not all("dropped_by" in entry.model_fields_set for entry in data.corpora):
        lines.append("An earlier version recorded why documents were dropped and not by which step: those stand under reading.")
    kinds = [
        [f"{entry.name}: nothing is left to train on." for entry in data.corpora if not entry.splits[TRAIN].tokens],
        [
            f"{entry.name}: {counted(count, 'damaged file')} skipped, or read to where the damage is."
            for entry in data.corpora
            if (count := entry.dropped[BAD_FILE])
        ],
        [
            f"No text of {name} has {decontamination.ngram} words, so that it was not looked for."
            for name, sizes in manifest.evaluation_sets.items()
            if decontamination is not None and not sizes["texts"]
        ],
        [f"{line}." for line in (manifest.encoding.lines()[:-1] if manifest.encoding else [])],
        [f"{line}." for line in plan.get("left_out", [])],
    ]
    for kind in kinds:
        rest = len(kind) - _OF_A_KIND
        lines += kind if rest <= 1 else [*kind[:_OF_A_KIND], f"{rest:,} more are like these."]
    return lines


def shown_weights(data: PreparedData, entries: Sequence[CorpusEntry]) -> dict[str, float]:
    """Return the blend of `entries`, of which one that is no corpus has the weights of all that are not among them."""
    weights = data.weights
    names = {entry.name for entry in data.corpora}
    rest = sum(weight for name, weight in weights.items() if name not in {entry.name for entry in entries})
    return {entry.name: weights.get(entry.name, 0.0) if entry.name in names else rest for entry in entries}
