"""From a window of tokens to what a model reads and what it is scored on."""

from dataclasses import dataclass

import numpy as np

from data_prep.errors import UserError
from data_prep.tokenizer import Tokenizer
from pipeline import keyed

IGNORED = -100
"""The label of a position that is not scored (torch's cross_entropy convention)."""

_MASKED_SHARE = 0.15
_REPLACED_SHARE = 0.8
_RANDOM_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class CausalObjective:
    """Next-token prediction: a window of S + 1 tokens gives S inputs and S labels."""

    sequence_length: int

    @property
    def window(self) -> tuple[int, int]:
        """(length, stride) of the windows that it wants."""
        return self.sequence_length + 1, self.sequence_length

    def example(self, tokens: np.ndarray, key: tuple[object, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and labels, int64 [S]; `key` is unused, nothing is drawn."""
        return tokens[:-1], tokens[1:]


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

    def example(self, tokens: np.ndarray, key: tuple[object, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and labels, int64 [S]; what is masked is a function of `key` alone."""
        tokens = np.concatenate([[self.cls_id], tokens])
        size = len(tokens)
        draws = keyed.uniform(("mask", *key), 0, 3 * size).reshape(3, size)
        scored = (draws[0] < _MASKED_SHARE) & ~np.isin(tokens, self.special_ids)
        replaced = scored & (draws[1] < _REPLACED_SHARE)
        drawn = (draws[2] * self.vocab_size).astype(np.int64)
        # No special token stands for a word: RoBERTa would count the positions behind a padding token anew.
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
