import hashlib
import random

from data_prep.text.slice_writer import text_hash

CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


def as_defined(text: str) -> bytes:
    content = "".join(character for character in text.lower() if not character.isspace())
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


def test_texts_are_equal_that_differ_in_case_and_white_space_alone():
    same = ["One  two\nthree É", "one two three é", " ONE\ttwo\u00a0three\u2028É\u3000"]
    assert len({text_hash(text) for text in same}) == 1
    assert len(text_hash(same[0])) == 16
    assert len({text_hash(text) for text in [same[0], "one two three e", "one two, three é", "one tow three é", ""]}) == 5


def test_all_of_unicodes_white_space_is_passed_over_by_the_hash():
    spaces = [character for character in CHARACTERS if character.isspace()]
    assert {text_hash(f"a{space}É") for space in spaces} == {text_hash("aé")}
    assert {text_hash(f"a{space}b") for space in spaces} == {text_hash("ab")}


def test_the_hash_is_that_of_the_lower_case_text_without_white_space():
    generator = random.Random(5)
    alphabets = ["aB \n", "aB é\u2019\u201c", "aÉ\u00a0\u3000ß", "ΑΣ Β\u00a0ς", "K\u212aİI\u0307", CHARACTERS]
    for alphabet in alphabets:
        for length in range(40):
            text = "".join(generator.choices(alphabet, k=length))
            assert text_hash(text) == as_defined(text), repr(text)
