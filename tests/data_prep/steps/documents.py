"""Documents of every kind that a filter meets, the same ones every time."""

import random

_WORDS = (
    "the of and to be that have with this which water people through little number because before between country "
    "house light thought under water world always often river mountain simply enough paper state carry music those "
    "it's don't 'tis they'll O'Neil gonna U.S. e.g. i.e. Dr. Mr. vs. a.m. 5pm 3.5km 10km/h 100% $5.99 #tag # ... … • - :-) <3 "
    'state-of-the-art and/or x^2 1+1=2 a:b C++ [1] [edit] (paren) “quoted” ‘single’ "double" naïve être привет мир '
    "http://x.org/z?y=1 www.shop.com mail@a.org first.last+tag@mail.example.com 8.8.8.8 192.168.0.1 10.0.0.300 1.2.3.4.5 "
    "2020-11-28 3.14159 javascript cookies"
).split()
_MARKS = "abcXYZ012 .,;:!?'\"()[]<>-_/\\#*&%$£€+=~^|@…—–“”‘’«»。，！？「」日本語한국éüßЖд°²³µ\u0301😀👍🏽"
_CHINESE = "这是一个测试文档我们使用中文写作。，！？日本語のテキストです"
_RARE = ("lorem ipsum", "{ x }", "terms of use", "privacy policy", "uses cookies", "javascript", "x" * 1001, "citation needed")


def documents(number: int = 1200) -> list[str]:
    """Return prose, lists, spam, repetition, rows of marks, and text without blanks."""
    draw = random.Random(20261128)
    made: list[str] = []
    kinds = (_prose, _short_lines, _list, _marks, _repeated, _chinese)
    for index in range(number):
        text = kinds[index % len(kinds)](draw)
        if index % 5 == 0:
            lines = text.split("\n")
            lines.insert(draw.randrange(len(lines) + 1), f"The {draw.choice(_RARE)} of this page. It ends here.")
            text = "\n".join(lines)
        if index % 7 == 0:
            text += "\n" + _prose(draw)
        if index % 11 == 0:
            lines = text.split("\n")
            text = "\n".join(line for line in lines for _ in range(draw.choice((1, 1, 2))))
        made.append(text)
    return made


def _sentence(draw: random.Random, least: int, most: int) -> str:
    return " ".join(draw.choices(_WORDS[:40] if draw.random() < 0.7 else _WORDS, k=draw.randint(least, most)))


def _prose(draw: random.Random) -> str:
    sentences = [_sentence(draw, 4, 20).capitalize() + draw.choice(".....!?\"'…") for _ in range(draw.randint(2, 20))]
    return draw.choice((" ", "  ", "\n", "\n\n")).join(sentences)


def _short_lines(draw: random.Random) -> str:
    return "\n".join(_sentence(draw, 1, 12) + draw.choice(("", ".", "。", "?")) for _ in range(draw.randint(3, 40)))


def _list(draw: random.Random) -> str:
    bullets, ends = ("• ", "- ", "* ", "1. ", ""), ("", "...", "…", ".", "!")
    return "\n".join(draw.choice(bullets) + _sentence(draw, 1, 8) + draw.choice(ends) for _ in range(draw.randint(3, 60)))


def _marks(draw: random.Random) -> str:
    return " ".join("".join(draw.choices(_MARKS, k=draw.randint(1, 9))) for _ in range(draw.randint(10, 120)))


def _repeated(draw: random.Random) -> str:
    part = _sentence(draw, 3, 40)
    parts = [part if draw.random() < 0.3 else _sentence(draw, 3, 40) for _ in range(draw.randint(2, 20))]
    return draw.choice((" ", "\n", "\n\n", ". ")).join(parts)


def _chinese(draw: random.Random) -> str:
    return "".join(draw.choices(_CHINESE, k=draw.randint(30, 400)))
