"""Rows of tokens that a model reads, what comes of them, and windows in which every token of a document is scored once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

_LARGEST = 700.0


def perplexity(loss: float) -> float:
    """Return e to a loss in nats, infinite where no float holds it; NaN where the loss is NaN."""
    return math.inf if loss > _LARGEST else math.exp(loss)


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence that a model reads, and some of its positions with the tokens that are expected of them."""

    tokens: list[int]
    positions: range
    targets: list[int]


@dataclass(frozen=True, slots=True)
class Sums:
    """What came of rows, over all ranks."""

    log_likelihood: float
    """Nats."""
    tokens: int
    right: int
    """Tokens that had the highest logit."""
    rows: int
    rows_right: int
    """Rows of which all tokens had."""


def causal_rows(tokens: list[int], prefix: int, window: int, stride: int) -> Iterator[Row]:
    """Yield the rows in which a causal model scores a document's tokens; `prefix` stands in front of the first.

    Each row is of up to `window` inputs. The first scores all of its tokens, each further one the next `stride` behind as
    much context as there is space for: window - stride tokens or more, not counting the one before the first scored one. With
    stride = window these are lm_eval's rolling windows (`get_rolling_token_windows`, context_len=1).
    """
    stream = [prefix, *tokens]
    scored = 0
    while scored < len(tokens):
        end = min(len(tokens), scored + (stride if scored else window))
        begin = max(0, end - window)
        yield Row(stream[begin:end], range(scored - begin, end - begin), tokens[scored:end])
        scored = end


def masked_rows(
    tokens: list[int], cls_id: int, sep_id: int, mask_id: int, window: int, stride: int, every: int, first: int
) -> Iterator[Row]:
    """Yield the rows in which a masked model scores every `every`-th token of a document, from number `first` on.

    One a token: the others of its window are seen, between [CLS] and [SEP], and it is masked (Salazar et al. 2020,
    section 2). A window is up to `window` positions, and the `stride` tokens that are scored in it stand in its middle,
    as far as the document's ends allow.
    """
    inside = window - 2
    for block in range(0, len(tokens), stride):
        stop = min(block + stride, len(tokens))
        begin = max(0, min(block - (inside - (stop - block)) // 2, len(tokens) - inside))
        seen = tokens[begin : begin + inside]
        for place in range(block + (first - block) % every, stop, every):
            inputs = [cls_id, *seen, sep_id]
            at = 1 + place - begin
            inputs[at] = mask_id
            yield Row(inputs, range(at, at + 1), [tokens[place]])
