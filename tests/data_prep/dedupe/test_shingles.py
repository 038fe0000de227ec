import numpy as np
import pytest

from data_prep.dedupe.kernels import shingle_hashes
from data_prep.dedupe.shingles import word_table
from tests.data_prep.dedupe.planted import Writer, prose
from tests.data_prep.dedupe.reference import shingles

_TEXTS = [
    "",
    " \n\t .,;:!? — … «»",
    "One",
    "one two three four",
    "one two three four five",
    "One, TWO; three...four-five  six\nseven",
    "don't stop_here the end of_it all",
    "Été ÀÇÉ naïve straße ŒUVRE Ünï",
    "e\u0301te\u0301 combining marks stay in their words",
    "İstanbul DİYARBAKIR in lower case letter by letter",
    "Привет МИР это проверка слов и ещё раз",
    "नमस्ते दुनिया यह एक परीक्षण है",
    "北京大学在北京市。中国人民",
    "日本語のテキスト、カタカナとひらがな",
    "mixed 中文 and English 混合 text",
    "สวัสดีชาวโลก",
    "ສະບາຍດີ",
    "សួស្តី",
    "မင်္ဂလာပါ",
    "한국어 문장은 띄어쓰기를 합니다 그렇죠 네",
    "1999 and 2,000.5 ١٢٣ digits ½ Ⅷ count",
    "emoji 😀 part 👩‍👩‍👧 words \U000e0041 \U0010ffff too end",
    "𝔄𝔅 𐐀𐐁 letters beyond the basic plane 𠀀𠀁 done",
    "a a a a a a a a a a",
]


def _hashes(text: str, ngram: int) -> list[int]:
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    hashes, nowhere = np.empty(len(codes), dtype=np.uint32), np.empty(0, dtype=np.int64)
    words = shingle_hashes(codes, word_table(), ngram, hashes, nowhere, nowhere)
    return hashes[: max(words - ngram + 1, min(words, 1))].tolist()


@pytest.mark.parametrize("ngram", [1, 2, 5])
def test_hashes_are_equal_exactly_where_the_plain_shingles_are(ngram):
    writer = Writer(1, vocabulary=500)
    texts = _TEXTS + [prose(writer.words(200)) for _ in range(20)]
    hash_of: dict[tuple[str, ...], int] = {}
    for text in texts:
        plain, compiled = shingles(text, ngram), _hashes(text, ngram)
        assert len(plain) == len(compiled), text
        for shingle, hashed in zip(plain, compiled, strict=True):
            assert hash_of.setdefault(shingle, hashed) == hashed, shingle
    # 4,000 32-bit hashes: two of them meet with probability .002; they do not under these seeds.
    assert len(set(hash_of.values())) == len(hash_of)


def test_every_shingle_is_met_where_there_is_no_space_between_words():
    assert len(_hashes("北京大学在北京市", 5)) == 4
    assert len(_hashes("abcdefgh", 5)) == 1


def test_a_document_of_few_words_is_unlike_its_beginning():
    assert _hashes("one two three", 5) != _hashes("one two", 5)
    assert _hashes("one two three", 5) != _hashes("three two one", 5)


def test_case_and_punctuation_do_not_count():
    assert _hashes("The cat, the DOG; and a bird!", 5) == _hashes("the CAT the dog (and) A bird", 5)
