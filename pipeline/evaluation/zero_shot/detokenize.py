"""How each corpus is turned back into ordinary text: published ones come cut into words, with marks of their own."""

import re

_PAIRS = (r"\(\s*([^\)]*?)\s*\)", r"(\1)"), (r"\[\s*([^\]]*?)\s*\]", r"[\1]"), (r"{\s*([^}]*?)\s*}", r"{\1}")
_QUOTES = (r"\"\s*([^\"]*?)\s*\"", r'"\1"'), (r"'\s*([^']*?)\s*'", r"'\1'")


def wikitext(page: str) -> str:
    """Return a page of WikiText as ordinary text, by the rules of EleutherAI's lm_eval, the same to the character.

    `<unk>` stays. The rules are older than lm_eval: they are those by which GPT-2's figures are commonly reproduced.
    """
    text = page.replace("s '", "s'")
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text)
    for mark in "-,.":
        text = text.replace(f" @{mark}@ ", mark)
    for mark in ":;.!?,":
        text = text.replace(f" {mark} ", f"{mark} ")
    for pattern, replacement in (*_PAIRS, *_QUOTES):
        text = re.sub(pattern, replacement, text)
    for signs in (4, 3, 2):
        text = text.replace(" ".join("=" * signs), "=" * signs)
    text = text.replace(" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}")
    text = text.replace(" \n", "\n").replace("\n ", "\n")
    return text.replace(" N ", " 1 ").replace(" 's", "'s")


def ptb(text: str) -> str:
    """Return Penn Treebank as ordinary text: contractions and amounts joined, its `N` for any number a 1.

    The rules by which GPT-2's figure is commonly reproduced (Megatron-LM's), but that theirs swallow the space in front of
    a number. `<unk>` stays, and so does lower case: what stood there is lost.
    """
    text = re.sub(r" ?\n ?", "\n", text).strip(" ")
    text = text.replace(" '", "'").replace(" n't", "n't")
    text = re.sub(r"\bN\b", "1", text)
    return text.replace("$ 1", "$1").replace("# 1", "#1")
