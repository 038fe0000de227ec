"""Text to signature, shingling included: documents a second of one core, ours beside datasketch.

python -m tests.benchmarks.signatures
"""

import io
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import zstandard
from datasketch import MinHash

from data_prep.dedupe.signatures import Signer
from tests.data_prep.dedupe.planted import Writer, prose

_BOOKS = Path(__file__).parents[2].parent / "shared" / "data" / "gutenberg" / "train-00.jsonl.zst"
_CHARACTERS = 3300
_DOCUMENTS = 2000
_BATCH = 300
"""About a megabyte, as the parts are read."""
_PERMUTATIONS, _NGRAM = 128, 5
_ROUNDS = 5
_WORD = re.compile(r"\w+")


def _books() -> Iterator[str]:
    with open(_BOOKS, "rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            text = json.loads(line)["text"]
            yield from (text[start : start + _CHARACTERS] for start in range(0, len(text) - _CHARACTERS, _CHARACTERS))


def _made_up() -> Iterator[str]:
    writer = Writer(0)
    while True:
        yield prose(writer.words(590))


def _ours(signer: Signer, texts: list[str]) -> None:
    for start in range(0, len(texts), _BATCH):
        signer(texts[start : start + _BATCH])


def _datasketch(texts: list[str]) -> None:
    for text in texts:
        words = _WORD.findall(text.lower())
        shingles = {" ".join(words[place : place + _NGRAM]).encode() for place in range(len(words) - _NGRAM + 1)}
        MinHash(num_perm=_PERMUTATIONS).update_batch(list(shingles))


def _rate(work: Callable[[list[str]], None], texts: list[str]) -> float:
    began = time.process_time()
    work(texts)
    return len(texts) / (time.process_time() - began)


def main() -> None:
    texts = list(itertools.islice(_books() if _BOOKS.exists() else _made_up(), _DOCUMENTS))
    signer = Signer(_PERMUTATIONS, _NGRAM)
    signer(texts[:1])  # compiles
    rates = [(_rate(lambda some: _ours(signer, some), texts), _rate(_datasketch, texts)) for _ in range(_ROUNDS)]
    ours, theirs = (sorted(column)[_ROUNDS // 2] for column in zip(*rates, strict=True))
    size = sum(len(text.encode()) for text in texts) / len(texts)
    print(f"{len(texts)} documents of {size:.0f} bytes, {'books' if _BOOKS.exists() else 'made up'}")
    print(f"documents/s of one core: ours {ours:,.0f}, datasketch {theirs:,.0f}; ratio {ours / theirs:.1f}")


if __name__ == "__main__":
    main()
