"""Each rule by hand: a document just inside its threshold, and one just outside."""

import pytest

from data_prep.steps.registry import STEPS
from data_prep.text.document import Document

_OFF = {
    "gopher_repetition": dict.fromkeys(
        ("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac", "top_n_grams", "dup_n_grams")
    ),
    "gopher_quality": dict.fromkeys(
        (
            "min_doc_words",
            "max_doc_words",
            "min_avg_word_length",
            "max_avg_word_length",
            "max_symbol_word_ratio",
            "max_bullet_lines_ratio",
            "max_ellipsis_lines_ratio",
            "min_alpha_words_ratio",
            "min_stop_words",
        )
    ),
    "fineweb": dict.fromkeys(("line_punct_thr", "short_line_thr", "char_duplicates_ratio", "new_line_ratio")),
    "c4": {
        **dict.fromkeys(("max_word_length", "min_words_per_line", "min_num_sentences")),
        **dict.fromkeys(
            (
                "remove_citations",
                "filter_no_terminal_punct",
                "filter_lorem_ipsum",
                "filter_javascript",
                "filter_curly_bracket",
                "filter_policy",
            ),
            False,
        ),
    },
}
"""Every rule off."""


def _words(number: int, letters: int = 4) -> str:
    """Different words of `letters` letters."""
    return " ".join("".join(chr(ord("a") + index // 26**place % 26) for place in range(letters)) for index in range(number))


def _lines(*counts: tuple[str, int]) -> str:
    return "\n".join(line for line, count in counts for _ in range(count))


_DIFFERENT = "".join(f"{word}\n" for word in _words(7).split())
_PARAGRAPHS = "".join(f"{word}\n\n" for word in _words(7).split())

RULES = [
    # Of ten lines three are copies of another, or four.
    ("gopher_repetition", "dup_line_frac", _DIFFERENT + "xx\nxx\nxx", _DIFFERENT + "xx\nxx\nxx\nxx\nxx", "duplicate lines"),
    (
        "gopher_repetition",
        "dup_para_frac",
        _PARAGRAPHS + "xx\n\nxx",
        _PARAGRAPHS + "\n\n".join(["xx"] * 6),
        "duplicate paragraphs",
    ),
    # The copy has 20 of 101 characters, or 21 of 101.
    (
        "gopher_repetition",
        "dup_line_char_frac",
        "x" * 20 + "\n" + "x" * 20 + "\n" + "y" * 59,
        "x" * 21 + "\n" + "x" * 21 + "\n" + "y" * 57,
        "characters in duplicate lines",
    ),
    (
        "gopher_repetition",
        "dup_para_char_frac",
        "x" * 20 + "\n\n" + "x" * 20 + "\n\n" + "y" * 57,
        "x" * 21 + "\n\n" + "x" * 21 + "\n\n" + "y" * 55,
        "characters in duplicate paragraphs",
    ),
    # "ab cd" has 5 characters: 10 or 15 of about 60.
    (
        "gopher_repetition",
        {"top_n_grams": {2: 0.2}},
        "ab cd ab cd " + _words(10),
        "ab cd ab cd ab cd " + _words(10),
        "top 2-gram",
    ),
    # A second time 10 characters, of 75 with blanks or of 60.
    (
        "gopher_repetition",
        {"dup_n_grams": {5: 0.15}},
        "a b c d e " * 2 + _words(13),
        "ab cd ef gh ij " * 2 + _words(6),
        "duplicate 5-grams",
    ),
    ("gopher_quality", "min_doc_words", _words(50), _words(49), "few words"),
    ("gopher_quality", {"max_doc_words": 50}, _words(50), _words(51), "many words"),
    ("gopher_quality", "min_avg_word_length", _words(60, 3), _words(60, 3) + " ab", "short words"),
    ("gopher_quality", "max_avg_word_length", _words(60, 10), _words(60, 10) + " " + "x" * 11, "long words"),
    # A number sign is a word itself: 6 of 60, or 7 of 60.
    ("gopher_quality", "max_symbol_word_ratio", _words(54) + " #" * 6, _words(53) + " #" * 7, "number signs"),
    ("gopher_quality", "max_symbol_word_ratio", _words(54) + " ..." * 6, _words(53) + " …" * 7, "ellipses"),
    (
        "gopher_quality",
        "max_bullet_lines_ratio",
        _lines(("• a", 9), ("b", 1)),
        _lines(("  - a", 10), ("b", 1)),
        "lines with bullets",
    ),
    (
        "gopher_quality",
        {"max_ellipsis_lines_ratio": 0.3},
        _lines(("a...", 3), ("b", 7)),
        _lines(("a… ", 4), ("b", 7)),
        "lines that end with an ellipsis",
    ),
    ("gopher_quality", "min_alpha_words_ratio", "a 1 b c d", "a 1 b c 2", "words without a letter"),
    ("gopher_quality", "min_stop_words", "the cat of", "the cat the", "few stop words"),
    ("gopher_quality", {"min_stop_words": 2, "stop_words": ["der", "und"]}, "der und", "the of", "few stop words"),
    # 3 of 25 lines are 12 %.
    ("fineweb", "line_punct_thr", _lines(("a.", 3), ("b", 22)), _lines(("a.", 3), ("b", 23)), "lines without end punctuation"),
    ("fineweb", "short_line_thr", _lines(("x" * 30, 2), ("x" * 31, 1)), _lines(("x" * 30, 7), ("x" * 31, 3)), "short lines"),
    # One of 100 characters stands in a copy; one of 99.
    ("fineweb", "char_duplicates_ratio", "a\na\n" + "x" * 98, "a\na\n" + "x" * 97, "characters in duplicate lines"),
    # 3 line ends to 10 words, or to 9.
    ("fineweb", "new_line_ratio", "a\nb\nc\nd e f g h i j", "a\nb\nc\nd e f g h i", "few words per line"),
    ("c4", {"filter_lorem_ipsum": True}, "Lorem, ipsum.", "A Lorem Ipsum.", "lorem ipsum"),
    ("c4", {"filter_curly_bracket": True}, "f(x) }", "f(x) {", "curly bracket"),
    ("c4", {"min_num_sentences": 5}, "He ran. Go! Why? We saw. It was.", "He ran. Go! Why? Mr. Fox saw.", "few sentences"),
]


@pytest.mark.parametrize(("name", "rule", "kept", "dropped", "reason"), RULES, ids=[f"{rule[0]}-{rule[4]}" for rule in RULES])
def test_a_rule_alone_keeps_up_to_its_threshold_and_drops_beyond(name, rule, kept, dropped, reason):
    step_class = STEPS[name]
    options = rule if isinstance(rule, dict) else {rule: step_class.model_fields[rule].default}
    step = step_class(**{**_OFF[name], **options})
    assert step(Document(kept, "")) is None
    assert step(Document(dropped, "")) == f"{name}: {reason}"
    assert step_class(**_OFF[name])(Document(dropped, "")) is None


LINES = [
    ({"max_word_length": 5}, "abcde fg\nabcdef g", "abcde fg"),
    ({"remove_citations": True}, "As shown[12].[citation needed] See [edit] x[].", "As shown. See  x."),
    ({"filter_no_terminal_punct": True}, 'a.\nb\nc?\nd!\n"e"\nf...\ng;\n', 'a.\nc?\nd!\n"e"'),
    ({"min_words_per_line": 3}, "one two three\none two\n", "one two three"),
    ({"filter_javascript": True}, "Enable JavaScript\nText", "Text"),
    ({"filter_policy": True}, "Our Privacy Policy\nWe take cookies\nThis site uses cookies", "We take cookies"),
]


@pytest.mark.parametrize(("options", "text", "left"), LINES, ids=[next(iter(options)) for options, _, _ in LINES])
def test_c4_removes_lines(options, text, left):
    document = Document(text, "")
    assert STEPS["c4"](**{**_OFF["c4"], **options})(document) is None
    assert document.text == left


def test_c4_drops_a_document_without_a_line():
    assert STEPS["c4"](min_num_sentences=None)(Document("no end\nnone here", "")) == "c4: no line left"


@pytest.mark.parametrize("name", _OFF)
@pytest.mark.parametrize("text", ["", " ", "\n\n", ".", "\u200b", "x"])
def test_next_to_nothing_is_judged_too(name, text):
    for options in ({}, _OFF[name]):
        assert isinstance(STEPS[name](**options)(Document(text, "")), str | None)
