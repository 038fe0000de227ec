"""Made-up text: varied enough for a vocabulary to be learned from it."""

import random

_SYLLABLES = "ba ce di fo gu ha ki lo mu ne or pa qui ra se ti un ve wa xi yo ze th st ing er ly ness".split()


def made_up_texts(count: int, seed: int = 0, words: int = 120) -> list[str]:
    """Return `count` texts of two paragraphs, some of their words capitalised, accented, or numbers."""
    draw = random.Random(seed)
    lexicon = ["".join(draw.choices(_SYLLABLES, k=draw.randrange(1, 4))) for _ in range(3000)]
    lexicon += ["naïve", "Übung", "café", "déjà", "3.14", "2024", "O'Brien", "well-known", "日本", "…"]
    texts = []
    for _ in range(count):
        chosen = [lexicon[min(int(draw.expovariate(0.003)), len(lexicon) - 1 - draw.randrange(10))] for _ in range(words)]
        chosen[0] = chosen[0].capitalize()
        texts.append(" ".join(chosen[: words // 2]) + ".\n\n" + " ".join(chosen[words // 2 :]) + ".")
    return texts
