"""Texts made to find where two libraries encode otherwise: about a megabyte, the same every time for one tokenizer."""

import random
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from data_prep.tokenizers.probes import PROBES, spelled

_SEED = 20_261
_MIXED = 12_000
_OF_BYTES = 1500
_OF_UNICODE = 1500
_OF_IDS = 3000
_HIGHEST = 0x20000
"""The first two planes of Unicode hold all scripts."""
_CHARACTERS = 64
"""In a text of `_all_characters`."""
_MANY = ((0x3400, 0xA000), (0xAC00, 0xD7A4))
"""Han and Hangul: one character in 16 stands for them."""
_LONG = (30, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 4000)

_BLANKS = [
    *" \t\n\r\x0b\x0c\x1c\x85\u00a0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000\u180e\u200b\ufeff",
    *("  ", "   ", "    ", "\n\n", "\n\n\n", "\r\n", " \n", "\n ", "\t\t", " \t", " \u00a0", "\u00a0 "),
]
_CONTRACTED = [
    mark + end
    for mark in ("'", "’", " '", "\t'", "\n'", "''")
    for end in ("s", "S", "t", "T", "re", "RE", "rE", "ve", "Ve", "m", "M", "ll", "LL", "lL", "d", "D", "ſ", "sS", "x", "")
]
_WORDS = (
    "the of and The AND Hello world don can't we'll it's I'm O'Neill rock'n'roll camelCase HTTPServer snake_case x86_64 "
    "antidisestablishmentarianism Ångström naïve café Straße ﬁne İstanbul ıI Ǆ ŉ ß ẞ ΑΣ ας Москва привет Ελλάδα שלום עִבְרִית "
    "مرحبا العَرَبِيَّة हिन्दी क्षि தமிழ் ไทยกำ ภาษา ខ្មែរ မြန်မာ ქართული Հայերեն አማርኛ 東京都 日本語 ひらがな カタカナ ｶﾀｶﾅ 中文 漢字 "
    "한국어 한글 𠀀 𝓗𝓮𝓵𝓵𝓸 ᏣᎳᎩ ꮳꮃꭹ 𐐀 ﷺ ǅungla ʰ ª º ①② Ⅷ ½ ² x² ㍿ ﬀ ｆｕｌｌ e\u0301 n\u0303 a\u0300\u0301\u0302 \u0301x "
    "ö\u0308 g̈ ṩ s\u0323\u0307 s\u0307\u0323"
).split()
_DIGITS = "0 1 7 12 123 1234 12345 1234567890 3.14 1,000 -1 1e-9 0x1F ٣ ४५ １２ ² Ⅻ ½".split()
_MARKS = [
    *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»“”‘’–—…§€£™©·•。、，「」؟،।±×√∑→",
    *"... -- --- ?! :// // ./ /\n \\n $1 ^^ ``` ''' \"\"\" && || /* */ <!-- --> </a> {{ }}".split(" "),
]
_SIGNS = [
    *"😀 👍🏽 👨‍👩‍👧 🇩🇪 🇩 ❤️ ☕".split(),
    *"\u200d\u200c\u00ad\ufe0f\u202e\u2066\x00\x01\x07\x1b\x7f\x80\x9f\ufffd\ufffe\uffff\ue000\U0010ffff\U000e0041\u0378",
]
_SPELLINGS = (
    "▁ ▁▁ ▁the Ġ Ġthe Ċ ## ##ing @@ </w> <0x0A> <0x00> <0xFF> <0xE2><0x96><0x81> <0x0a> <unk> <s> </s> <pad> <mask> [UNK] "
    "[CLS] [SEP] [MASK] [PAD] <|endoftext|> <|im_start|> <| |> <extra_id_0> <bos> <eos> �"
).split()
_KINDS = (_BLANKS, _CONTRACTED, _WORDS, _WORDS, _DIGITS, _MARKS, _SIGNS, _SPELLINGS)
_REPEATED = [*" \n\ta1!-=.'A東▁Ġ😀é\u0301\u00a0\x00ſ", "\r\n", "ab", "12", "'s", "a ", " a"]


def stress_texts(added: list[str], vocabulary: int, decode: Callable[[list[int]], str]) -> list[str]:
    """Return the texts for one tokenizer: its added tokens spelled, and what `decode` makes of ids below `vocabulary`.

    In addition: blanks of all kinds, contractions, scripts, digits, marks, signs and the vocabularies' own spellings, alone,
    beside a letter, repeated and mixed; every character, after a blank and among combining marks; random bytes and characters.
    """
    source = random.Random(_SEED)
    texts = [*PROBES, *spelled(added)]
    texts += [variant for kind in _KINDS for piece in kind for variant in (piece, f"x{piece}", f"{piece}x", f" {piece} ")]
    texts += [before + piece * count for piece in _REPEATED for count in _LONG for before in ("", "x ")]
    texts += _all_characters()
    kinds = [*_KINDS, added or _SPELLINGS]
    texts += ["".join(_pieces(source, kinds)) for _ in range(_MIXED)]
    texts += [source.randbytes(source.randrange(1, 60)).decode(errors="replace") for _ in range(_OF_BYTES)]
    texts += ["".join(_character(source) for _ in range(source.randrange(1, 30))) for _ in range(_OF_UNICODE)]
    texts += [decode([source.randrange(vocabulary) for _ in range(source.randrange(1, 12))]) for _ in range(_OF_IDS)]
    return texts


def _all_characters() -> Iterator[str]:
    """Every character, assigned or not: libraries know different versions of Unicode, by which marks change places or not."""
    codes = [code for code in range(_HIGHEST) if not 0xD800 <= code < 0xE000 and _stands_for_itself(code)]
    for begin in range(0, len(codes), _CHARACTERS):
        characters = map(chr, codes[begin : begin + _CHARACTERS])
        yield " ".join(f"{character}a\u0301{character}\u0323" for character in characters)


def _stands_for_itself(code: int) -> bool:
    return code % 16 == 0 or not any(first <= code < end for first, end in _MANY)


def _pieces(source: random.Random, kinds: Sequence[Sequence[str]]) -> Iterator[str]:
    for _ in range(source.randrange(2, 16)):
        piece = source.choice(source.choice(kinds))
        chance = source.random()
        yield piece * source.randrange(2, 5) if chance < 0.05 else f" {piece}" if chance < 0.45 else piece


def _character(source: random.Random) -> str:
    """Any character of Unicode, those of its first blocks more often; a blank for a surrogate, which is in no text."""
    character = chr(source.randrange(source.choice((0x80, 0x250, 0x3000, 0x10000, 0x20000, 0x110000))))
    return " " if unicodedata.category(character) == "Cs" else character
