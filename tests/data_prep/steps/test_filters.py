"""Each rule by hand: a document just inside its threshold, and one just outside."""

from typing import get_args

import pytest

from data_prep.steps.registry import STEPS
from data_prep.text.document import Document


def _off(name: str) -> dict[str, bool | None]:
    """Every rule off."""
    kinds = {key: field.annotation for key, field in STEPS[name].model_fields.items()}
    switches = {key: False for key, kind in kinds.items() if kind is bool}
    return switches | {key: None for key, kind in kinds.items() if type(None) in get_args(kind)}


def _words(number: int, letters: int = 4) -> str:
    """Different words of `letters` letters."""
    return " ".join("".join(chr(ord("a") + index // 26**place % 26) for place in range(letters)) for index in range(number))


def _lines(*counts: tuple[str, int]) -> str:
    return "\n".join(line for line, count in counts for _ in range(count))


def _copied(end: str, copied: int, other: int) -> str:
    """A part twice, and another one."""
    return end.join(["x" * copied, "x" * copied, "y" * other])


_DIFFERENT = "".join(f"{word}\n" for word in _words(7).split())
_PARAGRAPHS = "".join(f"{word}\n\n" for word in _words(7).split())

RULES = {
    "gopher_repetition": [
        # Of ten lines three are copies of another, or four.
        ("dup_line_frac", _DIFFERENT + "xx\nxx\nxx", _DIFFERENT + "xx\nxx\nxx\nxx\nxx", "duplicate lines"),
        ("dup_para_frac", _PARAGRAPHS + "xx\n\nxx", _PARAGRAPHS + "\n\n".join(["xx"] * 6), "duplicate paragraphs"),
        # The copy has 20 of 101 characters, or 21 of 101.
        ("dup_line_char_frac", _copied("\n", 20, 59), _copied("\n", 21, 57), "characters in duplicate lines"),
        ("dup_para_char_frac", _copied("\n\n", 20, 57), _copied("\n\n", 21, 55), "characters in duplicate paragraphs"),
        # "ab cd" has 5 characters: 10 or 15 of about 60.
        ({"top_n_grams": {2: 0.2}}, "ab cd ab cd " + _words(10), "ab cd ab cd ab cd " + _words(10), "top 2-gram"),
        # A second time 10 characters, of 75 with blanks or of 60.
        ({"dup_n_grams": {5: 0.15}}, "a b c d e " * 2 + _words(13), "ab cd ef gh ij " * 2 + _words(6), "duplicate 5-grams"),
    ],
    "gopher_quality": [
        ("min_doc_words", _words(50), _words(49), "few words"),
        ({"max_doc_words": 50}, _words(50), _words(51), "many words"),
        ("min_avg_word_length", _words(60, 3), _words(60, 3) + " ab", "short words"),
        ("max_avg_word_length", _words(60, 10), _words(60, 10) + " " + "x" * 11, "long words"),
        # A number sign is a word itself: 6 of 60, or 7 of 60.
        ("max_symbol_word_ratio", _words(54) + " #" * 6, _words(53) + " #" * 7, "number signs"),
        ("max_symbol_word_ratio", _words(54) + " ..." * 6, _words(53) + " …" * 7, "ellipses"),
        ("max_bullet_lines_ratio", _lines(("• a", 9), ("b", 1)), _lines(("  - a", 10), ("b", 1)), "lines with bullets"),
        (
            {"max_ellipsis_lines_ratio": 0.3},
            _lines(("a...", 3), ("b", 7)),
            _lines(("a… ", 4), ("b", 7)),
            "lines that end with an ellipsis",
        ),
        ("min_alpha_words_ratio", "a 1 b c d", "a 1 b c 2", "words without a letter"),
        ("min_stop_words", "the cat of", "the cat the", "few stop words"),
        ({"min_stop_words": 2, "stop_words": ["der", "und"]}, "der und", "the of", "few stop words"),
    ],
    "fineweb": [
        # 3 of 25 lines are 12 %.
        ("line_punct_thr", _lines(("a.", 3), ("b", 22)), _lines(("a.", 3), ("b", 23)), "lines without end punctuation"),
        ("short_line_thr", _lines(("x" * 30, 2), ("x" * 31, 1)), _lines(("x" * 30, 7), ("x" * 31, 3)), "short lines"),
        # One of 100 characters stands in a copy; one of 99.
        ("char_duplicates_ratio", "a\na\n" + "x" * 98, "a\na\n" + "x" * 97, "characters in duplicate lines"),
        # 3 line ends to 10 words, or to 9.
        ("new_line_ratio", "a\nb\nc\nd e f g h i j", "a\nb\nc\nd e f g h i", "few words per line"),
    ],
    "c4": [
        ({"filter_lorem_ipsum": True}, "Lorem, ipsum.", "A Lorem Ipsum.", "lorem ipsum"),
        ({"filter_curly_bracket": True}, "f(x) }", "f(x) {", "curly bracket"),
        ({"min_num_sentences": 5}, "He ran. Go! Why? We saw. It was.", "He ran. Go! Why? Mr. Fox saw.", "few sentences"),
    ],
}
CASES = [pytest.param(name, *rule, id=f"{name}-{rule[-1]}") for name, rules in RULES.items() for rule in rules]


@pytest.mark.parametrize(("name", "rule", "kept", "dropped", "reason"), CASES)
def test_a_rule_alone_keeps_up_to_its_threshold_and_drops_beyond(name, rule, kept, dropped, reason):
    step_class = STEPS[name]
    options = rule if isinstance(rule, dict) else {rule: step_class.model_fields[rule].default}
    step = step_class(**_off(name) | options)
    assert step(Document(kept, "")) is None
    assert step(Document(dropped, "")) == f"{name}: {reason}"
    assert step_class(**_off(name))(Document(dropped, "")) is None


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
    assert STEPS["c4"](**_off("c4") | options)(document) is None
    assert document.text == left


def test_c4_drops_a_document_without_a_line():
    assert STEPS["c4"](min_num_sentences=None)(Document("no end\nnone here", "")) == "c4: no line left"


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("text", ["", " ", "\n\n", ".", "\u200b", "x"])
def test_next_to_nothing_is_judged_too(name, text):
    for options in ({}, _off(name)):
        assert isinstance(STEPS[name](**options)(Document(text, "")), str | None)
