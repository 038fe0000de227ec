"""The corpora of prepared data: their weights in the blend, and their examples."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np

from data_prep.manifest import HELDOUT, TRAIN, PreparedData
from data_prep.shards import Shard
from pipeline.common.errors import UserError
from pipeline.data.batches import Batches, Corpus, holds_padding
from pipeline.data.blend import BLOCK, block_counts
from pipeline.data.examples import Examples, WindowExamples
from pipeline.data.objectives import MaskedObjective, Objective
from pipeline.data.pairs import SentencePairs


def effective_weights(
    data: PreparedData, chosen: Mapping[str, float] | None, length: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Return each corpus's share of the training samples, which add up to 1, and why others are left out of the blend.

    `chosen` weights name the corpora that are wanted. Without them it is those of the manifest, but for corpora without a
    training token. In a blend by tokens, for which nobody weighed anything, corpora are left out too that make no window of
    `length` tokens, or come to no sample. Raises UserError for a name that is not there, a weight that somebody gave and that
    comes to no sample, and where nothing is left.
    """
    names = [corpus.name for corpus in data.corpora]
    left_out: dict[str, str] = {}
    if chosen is not None:
        for name in chosen:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "prepared are: " + ", ".join(names)
                raise UserError(f"data.weights: no corpus {name!r} in the prepared data; {hint}")
        weights = {name: chosen[name] for name in names if name in chosen}
    else:
        weights = data.weights
        left_out = {name: "it has no training token" for name in names if name not in weights}
        if all(corpus.weight is None for corpus in data.corpora):
            for corpus in data.corpora:
                if corpus.name in weights and all(shard.tokens < length for shard in corpus.splits[TRAIN].shards):
                    left_out[corpus.name] = f"its training shards make no window of {length} tokens"
                    del weights[corpus.name]
            # Without the smallest the others' shares are others.
            while nothing := _without_sample(weights):
                left_out |= dict.fromkeys(nothing, f"by its tokens it comes to no sample in {BLOCK:,}")
                weights = {name: weight for name, weight in weights.items() if name not in nothing}
        if not weights:
            raise _too_short(data, TRAIN, names, length)
    for name in _without_sample(weights):
        raise UserError(
            f"{data.directory if chosen is None else 'data.weights'}: the weight of the corpus {name!r} comes to no sample in "
            f"{BLOCK}; give it more as data.weights, or leave it out there"
        )
    whole = sum(weights.values())
    return {name: weight / whole for name, weight in weights.items()}, left_out


def _without_sample(weights: Mapping[str, float]) -> list[str]:
    return [name for name, count in zip(weights, block_counts(weights), strict=True) if count == 0]


def _too_short(data: PreparedData, split: str, names: Sequence[str], length: int) -> UserError:
    return UserError(
        f"{data.directory}: the {split} split of {', '.join(names)} makes no window of {length} tokens; give more text or a "
        "shorter data.sequence_length"
    )


def open_batches(
    data: PreparedData,
    weights: Mapping[str, float],
    objective: Objective,
    seed: int,
    *,
    within_documents: bool,
    pairs: Literal["nsp", "sop"] | None = None,
    padding_id: int | None = None,
) -> tuple[Batches, Batches]:
    """Return the training and the held-out batches of the corpora that have weights.

    `within_documents`: attention stays within documents; `pairs` makes pairs of the shards' sentences, in the place of
    windows; no text may hold `padding_id`, where one is given: the family counts positions without it. Raises
    UserError for a shard that is missing, damaged or another than was prepared, where the text is too short, and for pairs
    where the objective masks nothing, or the shards' sequences are documents or make no pair.
    """
    if padding_id is not None:
        for name in weights:
            if data.unigrams(name)[padding_id]:
                raise holds_padding(name, padding_id)
    examples: Callable[[list[Shard]], Examples]
    if pairs is None:
        examples = partial(WindowExamples, objective=objective, within_documents=within_documents)
    else:
        masked = _masked_sentences(data, weights, objective)
        examples = partial(SentencePairs, kind=pairs, objective=masked, sep_id=data.tokenizer.sep_id)
    training, heldout = (_open(data, split, weights, examples) for split in (TRAIN, HELDOUT))
    # Every corpus has a share of the training; what is held out is taken together.
    for corpora, split in [*(([corpus], TRAIN) for corpus in training), (heldout, HELDOUT)]:
        if not any(len(corpus.examples) for corpus in corpora):
            raise _too_short(data, split, [corpus.name for corpus in corpora], objective.window[0])
    if pairs is not None:
        # Text that makes no pair is to be refused now, and not when the first sample is due. Half of these are negatives.
        trials = [("trial", number) for number in range(16)]
        for corpus in (corpus for corpus in training + heldout if len(corpus.examples)):
            corpus.examples.read(np.zeros(len(trials), dtype=np.int64), trials)
    return Batches(training, seed, padding_id), Batches(heldout, seed, padding_id)


def _masked_sentences(data: PreparedData, weights: Mapping[str, float], objective: Objective) -> MaskedObjective:
    """Return the objective of pairs; raises UserError where nothing is masked, or the text is not of sentences."""
    if not isinstance(objective, MaskedObjective):
        raise UserError("data.pairs: a causal model reads no sentence pairs; leave the key out, or take a bert")
    for entry in data.corpora:
        shards = entry.splits[TRAIN].shards
        if entry.name in weights and all(shard.sequences == shard.documents for shard in shards):
            raise UserError(
                f"data.pairs: the sequences of the corpus {entry.name!r} in {data.directory} are whole documents, not "
                "sentences; prepare the text again with `sequences: sentence`, or leave data.pairs out"
            )
    return objective


def _open(
    data: PreparedData, split: str, weights: Mapping[str, float], examples: Callable[[list[Shard]], Examples]
) -> list[Corpus]:
    return [
        Corpus(entry.name, weights[entry.name], examples(data.open(entry, split)))
        for entry in data.corpora
        if entry.name in weights
    ]
