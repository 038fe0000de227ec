"""Planted duplicates: made-up documents, copies of some among them, and what of these is found, by ours and by datasketch.

python -m tests.data_prep.dedupe.planted --documents 50000
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.dedupe.minhash import Signer
from tests.data_prep.dedupe.prepared import Corpus, Prepared
from tests.data_prep.dedupe.reference import jaccard, shingles

THRESHOLD = 0.8
EDITS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.2)
"""Shares of the words that are edited; 0: an exact copy."""
_COPIES = 0.1
_VOCABULARY = 30_000


@dataclass(frozen=True)
class Pair:
    earlier: int
    later: int
    edit: float
    similarity: float


@dataclass(frozen=True)
class Planted:
    texts: list[str]
    pairs: list[Pair]
    """Each copy with what it is a copy of."""
    nearest: np.ndarray
    """Each document's true similarity to its copy or original; 0 where it has none."""


def made_words(draw: np.random.Generator, count: int) -> list[str]:
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    shares = 1 / np.arange(1, 27)
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(draw.choice(letters, size=draw.integers(2, 11), p=shares / shares.sum()))] = None
    return list(words)


class Writer:
    """Prose-like documents: words by Zipf's law, sentences with capitals and full stops."""

    def __init__(self, seed: int, vocabulary: int = _VOCABULARY) -> None:
        self.draw = np.random.default_rng(seed)
        self._words = np.array(made_words(self.draw, vocabulary))
        self._cumulated = np.cumsum(1 / np.arange(1, vocabulary + 1))

    def words(self, count: int) -> list[str]:
        places = np.searchsorted(self._cumulated, self.draw.random(count) * self._cumulated[-1])
        return self._words[places].tolist()

    def edited(self, words: Sequence[str], share: float) -> list[str]:
        """Replace, insert before, or remove, a share of the words."""
        edited = list(words)
        for place in sorted(self.draw.choice(len(words), size=round(share * len(words)), replace=False), reverse=True):
            kind = self.draw.integers(3)
            edited[place : place + (kind != 1)] = self.words(1) if kind != 2 else []
        return edited


def prose(words: Sequence[str]) -> str:
    sentences = [" ".join(words[start : start + 14]).capitalize() for start in range(0, len(words), 14)]
    return ". ".join(sentences) + "."


def plant(documents: int, seed: int = 0) -> Planted:
    writer = Writer(seed)
    copies = round(documents * _COPIES)
    originals = [writer.words(writer.draw.integers(60, 601)) for _ in range(documents - copies)]
    sources = writer.draw.permutation(len(originals))[:copies].tolist()  # each once: no third document joins a pair
    edits = [EDITS[place % len(EDITS)] for place in range(copies)]
    texts = [prose(words) for words in originals]
    texts += [prose(writer.edited(originals[source], edit)) for source, edit in zip(sources, edits, strict=True)]
    order = writer.draw.permutation(documents)
    place = np.argsort(order)
    pairs, nearest = [], np.zeros(documents)
    for copy, source, edit in zip(range(len(originals), documents), sources, edits, strict=True):
        similarity = jaccard(set(shingles(texts[source])), set(shingles(texts[copy])))
        ends = sorted((int(place[source]), int(place[copy])))
        nearest[ends] = similarity
        pairs.append(Pair(*ends, edit, similarity))
    return Planted([texts[member] for member in order], pairs, nearest)


def dropped_by_ours(planted: Planted, root: Path) -> dict[int, int]:
    """{dropped document: the one that stays}."""
    prepared = Prepared(root, [Corpus("planted", "near", planted.texts)], per_part=10_000, threshold=THRESHOLD)
    decisions = prepared.deduplicate()
    return {document: decisions.kept_for(document)[0] for document in prepared.dropped(decisions)}


def dropped_by_datasketch(planted: Planted) -> dict[int, int]:
    """The usual loop: a document is dropped where the index has one like it, and goes into the index otherwise."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    dropped = {}
    for document, text in enumerate(planted.texts):
        signature = MinHash(num_perm=128)
        signature.update_batch([" ".join(shingle).encode() for shingle in set(shingles(text))])
        found = index.query(signature)
        if found:
            dropped[document] = min(found)
        else:
            index.insert(document, signature)
    return dropped


def false_drops(planted: Planted, dropped: dict[int, int]) -> int:
    """Documents that were dropped although none is more than .7 like them, the one that stays for them included."""
    return sum(
        jaccard(set(shingles(planted.texts[document])), set(shingles(planted.texts[kept]))) <= 0.7
        for document, kept in dropped.items()
        if planted.nearest[document] <= 0.7
    )


def is_found(pair: Pair, dropped: dict[int, int]) -> bool:
    """Whether one stays for both."""
    return dropped.get(pair.earlier, pair.earlier) == dropped.get(pair.later, pair.later)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=50_000)
    planted = plant(parser.parse_args().documents)
    Signer(128, 5)(["warm up"])
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        ours = dropped_by_ours(planted, Path(folder))
        between = time.perf_counter()
    theirs = dropped_by_datasketch(planted)
    seconds = between - began, time.perf_counter() - between
    print(f"{len(planted.texts)} documents, threshold {THRESHOLD}")
    print(f"{'':<12} {'pairs':>6} {'mean true Jaccard':>18} {'ours':>8} {'datasketch':>11}")
    groups = {
        f"{edit:.0%} edited" if edit else "exact": [each for each in planted.pairs if each.edit == edit] for edit in EDITS
    }
    groups["true >= .9"] = [pair for pair in planted.pairs if pair.similarity >= 0.9]
    for name, pairs in groups.items():
        similarity = np.mean([pair.similarity for pair in pairs])
        found = [sum(is_found(pair, dropped) for pair in pairs) for dropped in (ours, theirs)]
        print(f"{name:<12} {len(pairs):>6} {similarity:>18.3f} {found[0]:>8} {found[1]:>11}")
    distant = int((planted.nearest <= 0.7).sum())
    print(f"dropped with none above .7, of {distant}: {false_drops(planted, ours)} {false_drops(planted, theirs)}")
    print(f"seconds, writing the parts included in ours: {seconds[0]:.1f} {seconds[1]:.1f}")


if __name__ == "__main__":
    main()
