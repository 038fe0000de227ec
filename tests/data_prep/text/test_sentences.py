import random
import re

import pytest

from data_prep.text.sentences import split_sentences


def test_sentences_end_where_a_reader_would_end_them():
    text = "Dr. Smith went to Washington, D.C. on Jan. 5th.  It cost $3.50 (see Fig. 3). Who knew?\nNobody did!"
    assert split_sentences(text) == [
        "Dr. Smith went to Washington, D.C. on Jan. 5th.",
        "It cost $3.50 (see Fig. 3).",
        "Who knew?",
        "Nobody did!",
    ]


@pytest.mark.parametrize("blank", ["\n\n", "\n \t\n", "\n\n\n\n"])
def test_a_blank_line_ends_a_sentence_and_a_line_end_does_not(blank):
    assert split_sentences(f"A title{blank}two lines\nof one sentence") == ["A title", "two lines\nof one sentence"]


def test_text_without_words_has_no_sentences():
    assert split_sentences("") == split_sentences(" \n\n\t\n") == []


def test_other_languages_have_their_own_marks():
    assert split_sentences("今天很好。我们走吧！", "zh") == ["今天很好。", "我们走吧！"]


@pytest.mark.parametrize("language", ["xx", "tlh", "zzz"])
def test_a_language_without_rules_of_its_own_has_english_ones(language):
    text = "Dr. Smith went to Washington, D.C. on Jan. 5th. Who knew? 今天很好。"
    assert split_sentences(text, language) == split_sentences(text, "en")


@pytest.mark.parametrize("seed", range(4))
def test_nothing_but_white_space_is_lost(seed):
    draw = random.Random(seed)
    pieces = (
        'Dr.|J.|É.|U.S.|a|B|. |! |? |\n|\n\n|"|“|”|(|)| |\u00a0|\u2028|\u3000|\x1c|。|日本|😀|e\u0301|1.|...|…|\u200b'.split(
            "|"
        )
    )
    for _ in range(2000):
        text = "".join(draw.choices(pieces, k=draw.randrange(40)))
        sentences = split_sentences(text)
        assert re.sub(r"\s", "", "".join(sentences)) == re.sub(r"\s", "", text)
        assert all(sentence == sentence.strip() != "" for sentence in sentences)


def test_a_text_that_never_ends_a_sentence_takes_linear_time_and_stays_whole():
    text = "Mr. " * 200_000 + "end"
    assert split_sentences(text) == [text]
