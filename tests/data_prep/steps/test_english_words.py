"""Words and sentences, by hand; whole documents are held against spaCy in test_against_datatrove.py."""

import pytest

from data_prep.words.english import sentences, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He said: “don't!”", "He said : “ do n't ! ”"),
        ("(the U.S. and e.g. it's)", "( the U.S. and e.g. it 's )"),
        ("well-known 3.5km, $5.99/day", "well - known 3.5 km , $ 5.99 / day"),
        ("http://a.org/b-c?d=1, www.x.com.", "http://a.org/b-c?d=1 , www.x.com ."),
        ("wait... :-) (it's)it's", "wait ... :-) ( it's)it 's"),
        ("\t a\u00a0b\n\u3000c ", "a b c"),
        ("", ""),
    ],
)
def test_words(text, expected):
    assert " ".join(words(text)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("One. Two! Three? Four", 4),
        ("Mr. Smith of the U.S. came.", 1),
        ('He said "no." Then he left.', 2),
        ("What?! Really...", 2),
        ("你好。再见。", 1),
        ("A. ", 1),
        ("...", 1),
        (" ", 0),
        ('One.  "', 2),
    ],
)
def test_sentences(line, expected):
    assert sentences(line) == expected


@pytest.mark.parametrize("part", [")", ".", ":", "a-", "字。", "x.y/", "a@b:"])
def test_a_long_run_without_blanks_is_split_whole(part):
    """By the square of its length this would take minutes, of which the time limit lets few pass."""
    text = part * (50_000 // len(part))
    assert "".join(words(text)) == text
