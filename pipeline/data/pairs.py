"""Sentence pairs for BERT: "[CLS] A [SEP] B [SEP]", whether B belongs behind A, and masked words on top.

From shards whose sequences are sentences. Pair n begins at the sentence that a permutation of all sentences gives n, and
is the longest run of whole sentences from there that fits and ends with its document. A is the run up to a drawn boundary
between two sentences, B the rest or, by the toss of a coin:

- nsp (next sentence prediction, BERT, Devlin et al. 2019, section 3.1): a run from another document, as long as fits;
- sop (sentence order prediction, ALBERT, Lan et al. 2020, section 3.1): A and B change places.

A sentence that begins no pair (its document's last, or too long beside the next) is replaced by another, drawn again. All
draws are functions of the pair's key, so that pairs can be taken in any order by any process, and what is held in memory is
one count a shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_prep.shards import Shard
from pipeline.common import keyed
from pipeline.common.errors import UserError
from pipeline.data.examples import Columns, locate
from pipeline.data.objectives import Key, MaskedObjective
from pipeline.data.permutation import Permutation

_DRAWS = 1000
"""Sentences that are tried for one pair, and for its negative: where one in fifty fits, that fails once in 10^8 pairs."""


@dataclass(frozen=True, slots=True)
class _SentenceRange:
    """Sentences [first, end) of one document."""

    shard: int
    document: int
    first: int
    end: int


class SentencePairs:
    """The pairs of one corpus's split."""

    def __init__(self, shards: Sequence[Shard], kind: Literal["nsp", "sop"], objective: MaskedObjective, sep_id: int) -> None:
        """`objective` says how long sequences are and how words are masked; its special ids hold [SEP] too.

        Documents may end with `sep_id` as their end of document, which is not repeated.
        """
        self._shards = shards
        self._kind = kind
        self._objective = objective
        self._sep_id = sep_id
        self._ends = np.cumsum([shard.sequences for shard in shards], dtype=np.int64)
        self._max_tokens = objective.sequence_length - 3
        self._scattered = Permutation(len(self), ("pairs",))

    def __len__(self) -> int:
        """Return as many as there are sentences."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, numbers: np.ndarray, keys: Sequence[Key]) -> Columns:
        """Return the columns input_ids, labels, token_type_ids and attention_mask, [pairs, S] each, and pair_labels, [pairs].

        Raises UserError where the shards have no two sentences of a document that fit, or (nsp) no second document, and as
        `Shard.read` does.
        """
        objective = self._objective
        shape = (len(numbers), objective.sequence_length)
        # What stands behind a pair is neither seen nor scored: any special token can stand there.
        tokens = np.full(shape, self._sep_id)
        segments, seen = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        pair_labels = np.empty(len(numbers), dtype=np.int64)
        for row, (sentence, key) in enumerate(zip(self._scattered(numbers).tolist(), keys, strict=True)):
            first, second, pair_labels[row] = self._pair(sentence, key)
            pair = [objective.cls_id, *first, self._sep_id, *second, self._sep_id]
            tokens[row, : len(pair)] = pair
            segments[row, len(first) + 2 : len(pair)] = 1
            seen[row, : len(pair)] = 1
        inputs, labels = objective.masked(tokens, keys)
        return {
            "input_ids": inputs,
            "labels": labels,
            "token_type_ids": segments,
            "attention_mask": seen,
            "pair_labels": pair_labels,
        }

    def _pair(self, sentence: int, key: Key) -> tuple[np.ndarray, np.ndarray, int]:
        """Return A, B and the pair's label."""
        negative, boundary = keyed.uniform(("pair", *key), 0, 2)
        # Its own sentence, then others.
        for begin in (sentence, *keyed.below(("begin", *key), 0, _DRAWS, len(self)).tolist()):
            run = self._longest_from(begin, self._max_tokens)
            middle = run.first + 1 + int(boundary * (run.end - run.first - 1))
            first, second = self._tokens(run, run.first, middle), self._tokens(run, middle, run.end)
            if not len(first) or not len(second):
                continue
            if negative < 0.5:
                return first, second, 0
            if self._kind == "sop":
                return second, first, 1
            return first, self._from_another_document(run, self._max_tokens - len(first), key), 1
        raise UserError(
            f"{self._shards[0].prefix}: in {_DRAWS} draws no document with two sentences of together {self._max_tokens} tokens "
            "or fewer was found; prepare the text with `sequences: sentence`, or choose a longer data.sequence_length"
        )

    def _from_another_document(self, run: _SentenceRange, max_tokens: int, key: Key) -> np.ndarray:
        """Return a run of at most `max_tokens` tokens that no document but `run`'s has."""
        for begin in keyed.below(("negative", *key), 0, _DRAWS, len(self)).tolist():
            other = self._longest_from(begin, max_tokens)
            tokens = self._tokens(other, other.first, other.end)
            if (other.shard, other.document) != (run.shard, run.document) and len(tokens):
                return tokens
        raise UserError(
            f"{self._shards[run.shard].prefix}: in {_DRAWS} draws no sentence of at most {max_tokens} tokens was found in "
            "another document; next sentence prediction needs several documents, sentence order prediction does not"
        )

    def _longest_from(self, sentence: int, max_tokens: int) -> _SentenceRange:
        """Return the longest run of at most `max_tokens` tokens in a document, from a sentence (counted over all shards) on."""
        place, first = locate(self._ends, sentence)
        shard = self._shards[place]
        document = shard.document_at(first)
        end = int(shard.document_starts[document + 1])
        # Sentences without a token may let a run be longer than `max_tokens`; it then ends early.
        lengths = shard.lengths[first : min(end, first + max_tokens)]
        fitting = int(np.searchsorted(np.cumsum(lengths), max_tokens, side="right"))
        return _SentenceRange(place, document, first, first + fitting)

    def _tokens(self, run: _SentenceRange, first: int, end: int) -> np.ndarray:
        """Return the tokens of sentences [first, end) of a run, without the document's end."""
        if end <= first:
            return np.empty(0, dtype=np.int64)
        shard = self._shards[run.shard]
        begin = int(shard.offsets[first]) // shard.dtype.itemsize
        tokens = shard.read(begin, begin + int(shard.lengths[first:end].sum()))
        ends_document = end == shard.document_starts[run.document + 1]
        return tokens[:-1] if ends_document and len(tokens) and tokens[-1] == self._sep_id else tokens
