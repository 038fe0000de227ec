"""From windows of tokens to what a model reads and what it is scored on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.tokenizers.loading import Tokenizer
from pipeline.common import keyed
from pipeline.common.errors import UserError

IGNORED = -100
"""The label of a position that is not scored (torch's cross_entropy convention)."""

MASKED_SHARE = 0.15
_REPLACED_SHARE = 0.8
_RANDOM_SHARE = 0.1

Key = tuple[object, ...]
Example = tuple[np.ndarray, np.ndarray]
"""Inputs and labels, int64 [sequences, S] each."""


@dataclass(frozen=True, slots=True)
class CausalObjective:
    """Next-token prediction: a window of S + 1 tokens gives S inputs and S labels."""

    sequence_length: int

    @property
    def window(self) -> tuple[int, int]:
        """(length, stride) of the windows that it wants."""
        return self.sequence_length + 1, self.sequence_length

    def examples(self, tokens: np.ndarray, keys: Sequence[Key]) -> Example:
        """Return what windows [sequences, S + 1] come to; `keys` are unused, nothing is drawn."""
        # Copies: who blanks a label must not blank the input beside it.
        return tokens[:, :-1].copy(), tokens[:, 1:].copy()

    def inputs_documents(self, documents: np.ndarray) -> np.ndarray:
        """Return the document of each input, [sequences, S], out of those of the windows' tokens."""
        return documents[:, :-1]


@dataclass(frozen=True, slots=True)
class MaskedObjective:
    """BERT's masked language modelling: 15 % of the tokens are scored; 80 % of them read [MASK], 10 % a random token."""

    sequence_length: int
    vocab_size: int
    cls_id: int
    mask_id: int
    special_ids: tuple[int, ...]

    @property
    def window(self) -> tuple[int, int]:
        """(length, stride) of the windows that it wants: the first position belongs to [CLS]."""
        return self.sequence_length - 1, self.sequence_length - 1

    def examples(self, tokens: np.ndarray, keys: Sequence[Key]) -> Example:
        """Return what windows [sequences, S - 1] come to, behind [CLS]."""
        return self.masked(np.concatenate([np.full((len(tokens), 1), self.cls_id), tokens], axis=1), keys)

    def inputs_documents(self, documents: np.ndarray) -> np.ndarray:
        """Return the document of each input, [sequences, S], out of those of the windows' tokens: [CLS] is of the first."""
        return np.concatenate([documents[:, :1], documents], axis=1)

    def masked(self, tokens: np.ndarray, keys: Sequence[Key]) -> Example:
        """Return inputs and labels of tokens, int64 [sequences, S]; what is masked is a function of each one's key alone."""
        size = tokens.shape[1]
        draws = np.stack([keyed.uniform(("mask", *key), 0, 3 * size).reshape(3, size) for key in keys], axis=1)
        scored = (draws[0] < MASKED_SHARE) & ~np.isin(tokens, self.special_ids)
        replaced = scored & (draws[1] < _REPLACED_SHARE)
        drawn = (draws[2] * self.vocab_size).astype(np.int64)
        # No special token stands for a word: RoBERTa would restart positions after a padding token.
        random = scored & ~replaced & (draws[1] < _REPLACED_SHARE + _RANDOM_SHARE) & ~np.isin(drawn, self.special_ids)
        inputs = np.where(replaced, self.mask_id, tokens)
        inputs = np.where(random, drawn, inputs)
        return inputs, np.where(scored, tokens, IGNORED)


Objective = CausalObjective | MaskedObjective


def objective_for(name: str, tokenizer: Tokenizer, sequence_length: int) -> Objective:
    """Return a family's objective; raises UserError where the tokenizer lacks what masking needs."""
    if name == "clm":
        return CausalObjective(sequence_length)
    if tokenizer.mask_id is None or tokenizer.cls_id is None:
        raise UserError(
            f"{tokenizer.files[0]}: the tokenizer has no mask or cls token, which masked language modelling needs; "
            "BERT's vocabulary has them, and so has one trained here"
        )
    return MaskedObjective(
        sequence_length, tokenizer.vocab_size, tokenizer.cls_id, tokenizer.mask_id, tuple(tokenizer.special_ids)
    )
