import subprocess
import sys
import unicodedata

import pytest

from data_prep.settings import CorpusConfig
from data_prep.steps.language import Language
from data_prep.steps.normalize import clean
from data_prep.steps.sequence import Sequence
from data_prep.text.document import Document
from data_prep.text.rejects import OTHER_LANGUAGE, TOO_LONG, TOO_SHORT, UNCERTAIN_LANGUAGE
from pipeline.common.errors import UserError
from tests.data_prep.prose import made_up_texts

ENGLISH = "The boy went down to the river, and there he sat upon a stone and thought of what his father had told him."
GERMAN = "Der Junge ging zum Fluss hinunter, setzte sich auf einen Stein und dachte an das, was der Vater gesagt hatte."
CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


def cleaned(text: str, **options: object) -> tuple[str, str | None]:
    document = Document(text, "-")
    corpus = CorpusConfig(files=["-"], **options)
    reason = Sequence(corpus, corpus.all_steps)(document)
    return document.text, reason


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("  outer \n\t", "outer"),
        ("a\r\nb\rc\n\rd", "a\nb\nc\n\nd"),
        ("tab\tstays", "tab\tstays"),
        ("page\fbreak\vhere", "page\nbreak\nhere"),
        ("nul\x00 bell\x07 delete\x7f escape\x1b[0m", "nul bell delete escape[0m"),
        ("\ufeffmark\x80\x9f é© ¿", "mark é© ¿"),
        ("one\x85two\u2028three\u2029four… “five”", "one\ntwo\nthree\nfour… “five”"),
        ("plain\x1cascii", "plain\nascii"),
        ("\x00 \x00", ""),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ("e\u0301 \u212b", "é Å"),
        ("😀 日本語 Ж", "😀 日本語 Ж"),
    ],
)
def test_text_is_cleaned(raw, kept):
    assert clean(raw) == kept


def test_of_all_characters_none_goes_but_the_controls_and_line_ends_are_one():
    ends = {character for character in CHARACTERS if len(f".{character}.".splitlines()) > 1}
    assert {character for character in CHARACTERS if clean(f".{character}.") == ".\n."} == ends
    gone = {character for character in CHARACTERS if clean(f".{character}.") == ".."}
    controls = {character for character in CHARACTERS if unicodedata.category(character) == "Cc"} - ends - {"\t"}
    assert gone == controls | {"\ufeff"}


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_cleaning_twice_changes_nothing_more(form):
    for text in [*made_up_texts(20), "ﬁ ² ½ Ａ ｶ\u3099 \u0344 \u1e9b\u0323\r\v a\x85\u2028b\x1c\x1fc"]:
        once = clean(text, form)
        assert clean(once, form) == once == unicodedata.normalize(form, once)


def test_nfkc_unfolds_ligatures_and_wide_letters():
    assert cleaned("ﬁve Ａ", unicode="NFKC") == ("five A", None)
    assert cleaned("ﬁve Ａ") == ("ﬁve Ａ", None)


def test_length_is_counted_in_characters_or_words_of_the_cleaned_text():
    assert cleaned("  five5  ", min_length=5) == ("five5", None)
    assert cleaned("  five5  ", min_length=6)[1] == TOO_SHORT
    assert cleaned("three of them", min_length=3, length_unit="words")[1] is None
    assert cleaned("three of them", min_length=4, length_unit="words")[1] == TOO_SHORT
    assert cleaned(" \x00 ", min_length=0)[1] == TOO_SHORT
    assert cleaned("12345", max_characters=5)[1] is None
    assert cleaned("123456", max_characters=5)[1] == TOO_LONG


def test_lines_in_which_boilerplate_is_found_are_removed():
    rules = ["^Share this", "cookies?", "(?i)all rights reserved$"]
    text = "Share this\nA story.\nIt shares this: Share this\nWe use cookies here\n(c) ALL RIGHTS RESERVED\nEnd"
    assert cleaned(text, boilerplate=rules) == ("A story.\nIt shares this: Share this\nEnd", None)
    assert cleaned("We use cookies", boilerplate=rules) == ("", TOO_SHORT)


def test_other_languages_are_dropped():
    assert cleaned(ENGLISH, languages=["en"]) == (ENGLISH, None)
    assert cleaned(GERMAN, languages=["en"])[1] == OTHER_LANGUAGE
    assert cleaned(GERMAN, languages=["en", "de"])[1] is None
    assert cleaned(ENGLISH + "\n" + GERMAN * 50, languages=["de"])[1] is None


def test_a_language_of_which_the_model_is_not_sure_enough_is_dropped_for_that():
    step = Language(keep=["en"], min_score=0.65)
    sure, unsure, other = Document(ENGLISH, "-"), Document("12 Main St. ", "-"), Document(GERMAN, "-")
    assert step(sure) is None
    assert Language(keep=["en"])(unsure) is None
    assert step(unsure) == UNCERTAIN_LANGUAGE
    assert step(other) == OTHER_LANGUAGE
    assert sure.columns["language"] == unsure.columns["language"] == "en"
    assert unsure.columns["language_score"] < 0.65 < sure.columns["language_score"]


def test_a_language_that_the_model_does_not_know_is_refused():
    with pytest.raises(UserError, match=r"language: 'xx' is not among those that the model knows: .* en "):
        Language(keep=["en", "xx"]).check()


def test_the_language_model_is_loaded_only_where_it_is_asked_for():
    code = "import sys, data_prep.stages.clean; assert not {'fasttext', 'datasets', 'mpi4py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
