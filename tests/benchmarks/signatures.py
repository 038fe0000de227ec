"""Text to MinHash signature, shingling included: documents a second of one core, ours beside datasketch."""

import re
import time
from collections.abc import Callable

from datasketch import MinHash

from data_prep.dedupe.minhash import Signer

_BATCH = 300
"""About a megabyte, as the parts are read."""
_PERMUTATIONS, _NGRAM = 128, 5
_WORD = re.compile(r"\w+")


def ways() -> dict[str, Callable[[list[str]], float]]:
    """Return what signs texts on one core, by name; each returns its documents a second of CPU time."""
    signer = Signer(_PERMUTATIONS, _NGRAM)
    signer(["It compiles when it is called first."])

    def ours(texts: list[str]) -> None:
        for start in range(0, len(texts), _BATCH):
            signer(texts[start : start + _BATCH])

    return {"ours": lambda texts: _rate(ours, texts), "datasketch": lambda texts: _rate(_datasketch, texts)}


def _datasketch(texts: list[str]) -> None:
    MinHash.bulk(map(_shingles, texts), num_perm=_PERMUTATIONS)


def _shingles(text: str) -> list[bytes]:
    words = _WORD.findall(text.lower())
    return list({" ".join(words[place : place + _NGRAM]).encode() for place in range(len(words) - _NGRAM + 1)})


def _rate(work: Callable[[list[str]], None], texts: list[str]) -> float:
    began = time.process_time()
    work(texts)
    return len(texts) / (time.process_time() - began)
