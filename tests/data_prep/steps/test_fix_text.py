import random

import ftfy
import pytest

from data_prep.steps.fix_text import FixText
from data_prep.text.document import Document


def _fixed(text: str, **options) -> str:
    document = Document(text, "")
    assert FixText(**options)(document) is None
    return document.text


@pytest.mark.parametrize(
    ("broken", "text"),
    [("sÃ³", "só"), ("It\u00e2\u20ac\u2122s", "It\u2019s"), ("dÃ©jÃ\xa0 vu", "déjà vu"), ("ä½\xa0å¥½", "你好")],
)
def test_mojibake_is_repaired(broken, text):
    assert _fixed(broken) == text


@pytest.mark.parametrize("text", ["“curly” ‘quotes’", "ﬁne Ｗｉｄｅ", "a\r\nb", "&amp; &eacute;", "e\u0301", "\x1b[1mé\x07"])
def test_what_is_no_fault_of_an_encoding_stays_unless_asked_for(text):
    assert _fixed(text) == text
    everything = {name: field for name, field in ftfy.TextFixerConfig()._asdict().items() if name in FixText.model_fields}
    assert _fixed(text, **everything) == ftfy.fix_text(text) != text


@pytest.mark.parametrize("option", ["uncurl_quotes", "fix_latin_ligatures", "fix_character_width", "normalization"])
def test_ascii_is_left_alone_where_no_option_changes_it(option):
    draw = random.Random(0)
    step = FixText(**{option: "NFKC" if option == "normalization" else True})
    for _ in range(300):
        text = "".join(map(chr, draw.choices(range(128), k=60)))
        assert ftfy.fix_text(text, step._config) == text
    document = Document("plain \x07 &amp; \r\n text", "")
    step(document)
    assert document.text == "plain \x07 &amp; \r\n text"


@pytest.mark.parametrize(
    ("option", "text", "fixed"),
    [
        ("unescape_html", "a &amp; b", "a & b"),
        ("remove_control_chars", "a\x07b", "ab"),
        ("remove_terminal_escapes", "\x1b[1mb", "b"),
        ("fix_line_breaks", "a\r\nb", "a\nb"),
    ],
)
def test_options_that_change_ascii_do(option, text, fixed):
    assert _fixed(text, **{option: True}) == fixed


def test_options_below_fix_encoding_are_followed():
    text = "voilÃ le travail"
    assert _fixed(text) == "voilà le travail"
    assert _fixed(text, restore_byte_a0=False, decode_inconsistent_utf8=False) == text
    assert _fixed("sÃ³", fix_encoding=False) == "sÃ³"
