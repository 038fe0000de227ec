"""Windows in which every token is scored once."""

import pytest

from pipeline.evaluation.rows import causal_rows, masked_rows

TOKENS = list(range(100, 157))
PREFIX = 7


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 16), (16, 1), (10, 7), (57, 57), (64, 32), (1, 1)])
def test_every_token_is_scored_once_behind_as_much_as_there_is_room_for(window, stride):
    seen = []
    for row in causal_rows(TOKENS, PREFIX, window, stride):
        assert len(row.tokens) <= window
        for position, target in zip(row.positions, row.targets, strict=True):
            place = TOKENS.index(target)
            before = [PREFIX, *TOKENS[:place]]
            read = row.tokens[: position + 1]
            assert read == before[-len(read) :], "what it reads is what stands in front of it"
            # The whole beginning, or a window less the stride, and the token just before.
            assert len(read) == len(before) or len(read) > window - stride
        seen += row.targets
    assert seen == TOKENS


@pytest.mark.parametrize("length", [1, 15, 16, 17, 57])
def test_without_overlap_the_windows_are_those_of_lm_eval(length):
    utils = pytest.importorskip("lm_eval.utils")
    theirs = utils.get_rolling_token_windows(TOKENS[:length], PREFIX, max_seq_len=16, context_len=1)
    ours = list(causal_rows(TOKENS[:length], PREFIX, 16, 16))
    assert [(row.tokens, row.targets) for row in ours] == [(list(inputs), list(targets)) for inputs, targets in theirs]


@pytest.mark.parametrize(("window", "stride"), [(16, 7), (16, 14), (3, 1), (80, 39)])
@pytest.mark.parametrize(("every", "first"), [(1, 0), (3, 0), (3, 2)])
def test_every_so_many_th_token_is_masked_alone_amid_its_neighbours(window, stride, every, first):
    cls_id, sep_id, mask_id = 1, 2, 3
    scored = []
    for row in masked_rows(TOKENS, cls_id, sep_id, mask_id, window, stride, every, first):
        (position,), (target,) = row.positions, row.targets
        assert (row.tokens[0], row.tokens[-1], row.tokens[position]) == (cls_id, sep_id, mask_id)
        assert row.tokens.count(mask_id) == 1
        assert len(row.tokens) == min(window, len(TOKENS) + 2)
        whole = [target if token == mask_id else token for token in row.tokens[1:-1]]
        begin = TOKENS.index(whole[0])
        assert whole == TOKENS[begin : begin + len(whole)]
        scored.append(target)
    assert scored == TOKENS[first::every]
