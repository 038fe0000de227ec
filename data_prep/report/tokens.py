"""Tokens: how many each corpus has, how long their sequences are, which ids they are."""

import json
from collections.abc import Sequence

import numpy as np

from data_prep.manifest import HELDOUT, SPLITS, TRAIN, CorpusEntry, PreparedData
from data_prep.report.numbers import percent
from data_prep.report.parts import Bar, Grid, share
from data_prep.samples import QUANTILES, sequence_lengths

_FREQUENT = 25
_UNSEEN = 40
"""Tokens that are never seen of which the spelling is shown."""


def splits_table(entries: Sequence[CorpusEntry], weights: dict[str, float]) -> Grid:
    """Return documents and tokens of each split, and what each corpus is of the training tokens and of the blend.

    `weights` are the corpora's by their names, relative to each other.
    """
    whole, blend = sum(entry.splits[TRAIN].tokens for entry in entries), sum(weights.values())
    rows: list[list[str | Bar]] = []
    for entry in entries:
        train, heldout = entry.splits[TRAIN], entry.splits[HELDOUT]
        weight = weights.get(entry.name, 0.0)
        row = [f"{number:,}" for number in (train.documents, train.tokens, heldout.documents, heldout.tokens)]
        rows.append([entry.name, *row, *share(train.tokens, whole), *share(weight, blend)])
    head = ["corpus", "documents", "tokens", "held-out documents", "held-out tokens", "of the tokens", "", "of the blend", ""]
    return Grid("Tokens of each corpus, and its share of the blend", head, rows)


def lengths_table(data: PreparedData, entries: Sequence[CorpusEntry]) -> Grid:
    """Return quantiles of the tokens of a sequence in each split; raises UserError where a shard is damaged."""
    rows = []
    for entry in entries:
        for split in SPLITS:
            if entry.splits[split].shards:
                lengths = sequence_lengths(data, entry.splits[split])
                quantiles = [f"{length:,.0f}" for length in np.quantile(lengths, QUANTILES)] if len(lengths) else []
                rows.append([entry.name, split, f"{len(lengths):,}", *(quantiles or ["–"] * len(QUANTILES))])
    names = [f"{quantile:.0%}" if quantile < 1 else "longest" for quantile in QUANTILES]
    return Grid("Tokens of a sequence", ["corpus", "split", "sequences measured", *names], rows, frozenset({1}))


def training_counts(data: PreparedData) -> np.ndarray:
    """Return how often the training tokens of all corpora hold each id, int64 [vocabulary]; raises UserError."""
    return sum((data.unigrams(name) for name in data.weights), np.zeros(data.manifest.vocab_size, dtype=np.int64))


def frequent_table(data: PreparedData, counts: np.ndarray) -> Grid:
    """Return the most frequent tokens."""
    order = np.argsort(-counts, kind="stable")[:_FREQUENT]
    rows: list[list[str | Bar]] = []
    for number in order[counts[order] > 0].tolist():
        count = int(counts[number])
        bar = Bar(0, count / int(counts[order[0]]))
        text = json.dumps(data.tokenizer.decode([number]), ensure_ascii=False)
        share = percent(count, int(counts.sum()))
        rows.append([data.tokenizer.token(number), text, str(number), f"{count:,}", share, bar])
    head = ["token", "as text", "id", "times", "of the training tokens", ""]
    return Grid("The most frequent tokens", head, rows, frozenset({1}))


def unseen(data: PreparedData, counts: np.ndarray) -> tuple[int, list[str]]:
    """Return how many ids the training tokens never hold, and how the first of them are spelled."""
    ids = np.flatnonzero(counts == 0)
    return len(ids), [data.tokenizer.token(number) for number in ids[:_UNSEEN].tolist()]
