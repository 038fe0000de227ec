"""Texts on which tokenizers differ that are not the same."""

_SHOWN = 60

PROBES = (
    "",
    "The quick brown fox jumps over the lazy dog.",
    " a space in front",
    "two  spaces,   three, and at the end  ",
    "UPPER lower Title camelCase HTMLParser eBay McDonald's",
    "it's I'M we'Re they'LL don't 'tis rock'n'roll",
    "naïve café Ångström Straße İstanbul ﬁne",
    "e\u0301 and é, n\u0303 and ñ, ｆｕｌｌ ｗｉｄｔｈ, ① ² ½",
    "東京 日本語のテキスト 中文，标点。 한국어 텍스트",
    "Русский текст, ελληνικά, עברית, العربية, हिन्दी, ไทย",
    "😀 👨‍👩‍👧 🇩🇪 ❤️ 👍🏽",
    "1 12 123 1234 12345678 3.14 1,000,000 1e-9 0x1F 2024-12-31",
    "def f(x):\n\treturn {'a': x[0] ** 2}  # half\n\n\n    if x != None:\r\n        pass\n",
    "one\ntwo\n\nthree\n \nfour\r\nfive\tsix\u00a0seven\u2028eight\u3000nine",
    "a\x00b\x01c\x07d\x0be\x1bf\x7fg\ufeffh\u200bi\u200dj\ufffdk",
    "▁ ▁x Ġ Ċ ##ing @@ </w> <0x0A> �",
    "https://example.org/a_b?c=d&e=%20#f user@example.org --flag $HOME C:\\dir",
    "!!! ... --- ??? «quoted» “curly” ‘single’ – — … § ™ €",
    "word " * 3000,
    "x" * 3000,
)
"""Spaces, case, contractions, accents and their decompositions, scripts, emoji, digits, code, line ends, control characters,
marks that vocabularies use themselves, punctuation, long texts. Tokenizers' own special tokens are spelled in addition."""


def spelled(tokens: list[str]) -> list[str]:
    """Return texts that spell special tokens: alone, and between words with and without blanks."""
    return [text for token in tokens for text in (token, f"before {token} after", f"before{token}after")]


def differing(texts: list[str], ones: list[list[int]], others: list[list[int]]) -> str | None:
    """Return the first of the texts whose ids are not the same, and where; None where all are."""
    for text, mine, theirs in zip(texts, ones, others, strict=True):
        if mine != theirs:
            place = next((at for at, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), None)
            at = min(len(mine), len(theirs)) if place is None else place
            shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN]) + (", shortened here" if len(text) > _SHOWN else "")
            return f"the text {shown} is {_ids(mine, at)} and {_ids(theirs, at)}, from token {at}"
    return None


def _ids(ids: list[int], place: int) -> str:
    return f"{len(ids)} tokens, {ids[place : place + 4]}"
