"""The manifest of a finished preparation, out of what its stages left."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dedupe.deduplicate import Deduplicated
from data_prep.dedupe.filtering import EXACT_COPY, NEAR_COPY, REASONS, SPLIT_OF
from data_prep.encoding.choice import Encoding
from data_prep.encoding.provided_tokenizer import ProvidedTokenizer
from data_prep.jobs.job import WORK, Facts, Outputs
from data_prep.manifest import MANIFEST, PLAN, SHARDS, SPLITS, UNIGRAMS, CorpusEntry, Manifest, ShardEntry, SplitEntry
from data_prep.plans.drafting import absolute
from data_prep.plans.plan import Plan
from data_prep.shards import bin_path, idx_path
from data_prep.stages.tokenize import HISTOGRAM
from data_prep.steps.sequence import MOST_REASONS
from data_prep.storage.arrays import write_array
from data_prep.text.rejects import EXAMPLES, dropped_examples
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest, json_digest, text_digest, write_json

REPORT = "dropped.jsonl"
"""Examples of what was dropped: copies, each beside the one that stays, documents of each reason, lines or paragraphs that many
documents hold, passages of evaluation sets."""


def check_cleaned(plan: Plan, cleaned: list[Facts]) -> None:
    """Raise UserError where no record of a corpus has a column that is asked for, or where its steps give too many reasons."""
    for corpus in plan.config.corpora:
        facts = [facts.counts for read, facts in zip(plan.slices, cleaned, strict=True) if read.corpus == corpus.name]
        seen = {name for counts in facts for name in counts.get("columns", corpus.read_columns)}
        missing = [name for name in corpus.read_columns if name not in seen]
        if missing and any(counts["documents_in"] for counts in facts):
            raise UserError(
                f"corpora.{corpus.name}: no record has {missing[0]!r} (columns, where); look at its spelling, or leave it out"
            )
        reasons = {reason for counts in facts for reason in counts["dropped"]}
        if len(reasons) > MOST_REASONS:
            raise UserError(
                f"corpora.{corpus.name}: its steps give {len(reasons)} different reasons, and {MOST_REASONS} can be shown; let "
                "a step return a few words that are the same for many documents"
            )


def check_splits(plan: Plan, cleaned: list[Facts], deduplicated: Deduplicated) -> None:
    """Raise UserError where nothing is left to train on, or nothing is held out."""
    parts, decisions = deduplicated.parts, deduplicated.decisions
    keys = ("shards", "files"), ("heldout_shards", "heldout_fraction")
    for (decision, split), (shards, key) in zip(SPLIT_OF.items(), keys, strict=True):
        given = any(getattr(corpus, shards) for corpus in plan.config.corpora)
        if not given and not any((decisions.of(part) == decision).any() for part in parts):
            dropped = sum((Counter(facts.counts["dropped"]) for facts in [*cleaned, *deduplicated.rewritten]), Counter())
            for part in parts:
                dropped.update(
                    REASONS[decision] for decision in decisions.of(part).tolist() if decision in (EXACT_COPY, NEAR_COPY)
                )
            reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.items()) or "none"
            raise UserError(
                f"corpora: no document is left for the {split} split, of {parts.documents} that passed cleaning (dropped: "
                f"{reasons}); give more text, or see {key}, and what drops documents"
            )


def write_summary(
    root: Path,
    plan: Plan,
    cleaned: list[Facts],
    provided: ProvidedTokenizer,
    encoding: Encoding | None,
    finished: list[Facts],
    deduplicated: Deduplicated,
) -> None:
    """Write each corpus's counts of tokens, the report and, last of all files, the manifest.

    `finished` are the facts of the stages whose outputs stay: tokenizer, tokenize, accept, text.
    """
    entries = _cleaned_corpora(plan, cleaned)
    for facts in deduplicated.rewritten:
        # Documents that were dropped for repeated text are counted with the copies.
        dropped = {name: count for name, count in facts.counts["dropped"].items() if name not in REASONS.values()}
        _add(entries[facts.counts["corpus"]], facts.counts | {"dropped": dropped})
    histograms = {name: np.zeros(provided.vocab_size, dtype=np.int64) for name in entries}
    files: dict[str, str] = {}
    for facts in finished:
        for split, shard in facts.counts.get("splits", {}).items():
            entries[facts.counts["corpus"]].splits[split].shards.append(ShardEntry(**shard))
        for reason, count in facts.counts.get("dropped", {}).items():
            if count:
                entries[facts.counts["corpus"]].dropped[reason] += count
        for name, digest in facts.outputs.items():
            if name.endswith(HISTOGRAM):
                histograms[facts.counts["corpus"]] += np.load(root / name)
            elif not name.startswith(f"{WORK}/"):
                files[name] = digest
    with Outputs(root) as outputs:
        shown = ((read.corpus, facts.counts.get("shown", {})) for read, facts in zip(plan.slices, cleaned, strict=True))
        examples = [*deduplicated.decisions.report(), *deduplicated.report(), *_contaminated(cleaned), *dropped_examples(shown)]
        lines = (json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
        outputs.path(REPORT).write_text("".join(lines), encoding="utf-8")
        for name, histogram in histograms.items():
            write_array(outputs.path(f"{SHARDS}/{name}/{UNIGRAMS}"), histogram)
        files.update(outputs.commit())
    files[PLAN] = file_digest(root / PLAN)
    digests = {str(absolute(Path(item.name))): item.digest for item in plan.inputs}
    taken = [str(path(Path(given.prefix))) for given in plan.shards for path in (bin_path, idx_path)]
    files.update({name: digests[name] for name in taken})
    manifest = Manifest(
        format=plan.format,
        fingerprint=text_digest(f"{plan.digest} {provided.digest}")[:12],
        config=plan.config,
        tokenizer=provided.digest,
        vocab_size=provided.vocab_size,
        encoding=encoding,
        corpora=list(entries.values()),
        evaluation_sets=next((facts.counts["evaluation_sets"] for facts in cleaned if "evaluation_sets" in facts.counts), {}),
        files=files,
    )
    content = manifest.model_dump(mode="json")
    write_json(root / MANIFEST, content | {"digest": json_digest(content)})


def _contaminated(cleaned: list[Facts]) -> list[dict[str, Any]]:
    """The first documents that share a passage with each evaluation set, and the passage."""
    found: dict[str, list[dict[str, str]]] = {}
    for facts in cleaned:
        for name, examples in facts.counts.get("passages", {}).items():
            found[name] = (found.get(name, []) + examples)[:EXAMPLES]
    return [{"kind": "contaminated", "set": name} | example for name, examples in found.items() for example in examples]


def _cleaned_corpora(plan: Plan, cleaned: list[Facts]) -> dict[str, CorpusEntry]:
    """Each corpus as cleaning left it, without shards yet."""
    entries = {
        corpus.name: CorpusEntry(
            name=corpus.name,
            weight=corpus.weight,
            documents_read=0,
            dropped=Counter(),
            examples={},
            lengths=Counter(),
            splits={split: SplitEntry() for split in SPLITS},
        )
        for corpus in plan.config.corpora
    }
    for read, facts in zip(plan.slices, cleaned, strict=True):
        entries[read.corpus].documents_read += facts.counts["documents_in"]
        _add(entries[read.corpus], facts.counts)
    return entries


def _add(entry: CorpusEntry, counts: dict[str, Any]) -> None:
    """Add what cleaning, or a stage behind deduplication, counted."""
    entry.add(counts)
    for reason, places in counts["examples"].items():
        entry.examples[reason] = (entry.examples.get(reason, []) + places)[:EXAMPLES]
