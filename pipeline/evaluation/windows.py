"""Windows over a document's tokens, in which every token is scored exactly once."""

from collections.abc import Iterator

from pipeline.evaluation.scoring import Row


def causal_rows(tokens: list[int], prefix: int, window: int, stride: int) -> Iterator[Row]:
    """Yield the rows in which a causal model scores a document's tokens; `prefix` stands in front of the first.

    Each row is of up to `window` inputs. The first scores all of its tokens, each further one the next `stride` behind as
    much context as there is room for: window - stride tokens or more, the one before the first scored one aside. With
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
    room = window - 2
    for block in range(0, len(tokens), stride):
        stop = min(block + stride, len(tokens))
        begin = max(0, min(block - (room - (stop - block)) // 2, len(tokens) - room))
        seen = tokens[begin : begin + room]
        for place in range(block + (first - block) % every, stop, every):
            inputs = [cls_id, *seen, sep_id]
            at = 1 + place - begin
            inputs[at] = mask_id
            yield Row(inputs, range(at, at + 1), [tokens[place]])
