"""Documents that share passages with evaluation sets, n-grams of words regardless of case and punctuation; and their removal.

13 words are what GPT-3 was decontaminated by (Brown et al. 2020, appendix C).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_prep.decontamination.evaluation_sets import texts_of
from data_prep.dedupe.kernels import among, mark, shingle_hashes
from data_prep.dedupe.shingles import word_table
from data_prep.storage.stores import Source
from data_prep.text.document import Document
from data_prep.text.rejects import EXAMPLES
from pipeline.common.progress import Meter

_BITS_A_KEY = 16
"""Of the marks in which most n-grams are seen to be of no set: one in 16 is looked up for nothing."""
_LEAST_BITS = 16
"""Of their number, as a power of two."""
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Passage:
    """Characters [begin, stop) of a document, all of whose n-grams are of evaluation sets."""

    begin: int
    stop: int
    sets: tuple[str, ...]
    """In the order of the configuration."""


class Passages:
    """The n-grams of evaluation sets. In memory are 20 bytes for each."""

    def __init__(self, sets: Mapping[str, Iterable[Source]], ngram: int) -> None:
        """Read the files of each set; raises UserError naming one that cannot be read."""
        self._ngram = ngram
        self.sizes: dict[str, dict[str, int]] = {name: {"texts": 0, "short": 0} for name in sets}
        """Of each set, how many texts have an n-gram, and how many are of fewer words and are not looked for."""
        self._of_set: dict[str, np.ndarray] = {}
        for name, files in sets.items():
            with Meter(f"data: {name} read for decontamination"):
                self._of_set[name] = self._read(name, files)
        self._keys = np.unique(np.concatenate(list(self._of_set.values())))
        bits = max(_LEAST_BITS, (len(self._keys) * _BITS_A_KEY).bit_length())
        self._shift = 64 - bits
        self._bits = np.zeros((1 << bits) // 8, np.uint8)
        mark(self._keys, self._bits, self._shift)

    def _read(self, name: str, files: Iterable[Source]) -> np.ndarray:
        found = [np.empty(0, np.uint64)]
        for path in files:
            for text in texts_of(path):
                hashes, _, _ = self._ngrams(text)
                self.sizes[name]["texts" if len(hashes) else "short"] += 1
                found.append(hashes)
        return np.unique(np.concatenate(found))

    def _ngrams(self, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The hashes of a text's n-grams, and where each begins and ends."""
        # A lone surrogate is no character, as in cleaning.
        codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
        hashes = np.empty(len(codes), np.uint64)
        begins, stops = np.empty(len(codes), np.int64), np.empty(len(codes), np.int64)
        words = shingle_hashes(codes, word_table(), self._ngram, hashes, begins, stops)
        count = max(words - self._ngram + 1, 0)
        return hashes[:count], begins[:count], stops[:count]

    def __call__(self, text: str) -> list[Passage]:
        """Return a document's passages in order; n-grams that overlap or touch are one."""
        hashes, begins, stops = self._ngrams(text)
        found = np.empty(len(hashes), np.int64)
        found = found[: among(hashes, self._bits, self._shift, self._keys, found)]
        if not len(found):
            return []
        of_set = {name: np.isin(hashes[found], keys) for name, keys in self._of_set.items()}
        begins, stops = begins[found], stops[found]
        cuts = np.flatnonzero(begins[1:] > stops[:-1]) + 1
        return [
            Passage(int(begins[run[0]]), int(stops[run[-1]]), tuple(name for name, held in of_set.items() if held[run].any()))
            for run in np.split(np.arange(len(found)), cuts)
        ]


class Removal:
    """Takes documents or passages out, and counts them by set."""

    def __init__(self, passages: Passages, remove: Literal["document", "span", "nothing"]) -> None:
        self._passages, self._remove = passages, remove
        self._documents: Counter[str] = Counter()
        self._examples: dict[str, list[dict[str, str]]] = {}

    def __call__(self, document: Document) -> bool:
        """Take what is to go out of a document; return whether it goes as a whole."""
        passages = self._passages(document.text)
        for name in dict.fromkeys(name for passage in passages for name in passage.sets):
            self._documents[name] += 1
            if self._documents[name] <= EXAMPLES:
                first = next(passage for passage in passages if name in passage.sets)
                shown = document.text[first.begin : min(first.stop, first.begin + _SHOWN_CHARACTERS)]
                self._examples.setdefault(name, []).append({"where": document.where, "passage": shown})
        if self._remove == "span":
            document.text = _without(document.text, passages)
        return self._remove == "document" and bool(passages)

    def facts(self) -> dict[str, Any]:
        """Return what is recorded: documents with a passage of each set (one may count for several), examples, the sets."""
        return {"contaminated": dict(self._documents), "passages": self._examples, "evaluation_sets": self._passages.sizes}


def _without(text: str, passages: list[Passage]) -> str:
    """A text whose passages are cut out; a line ends where one was, so that words which it separated do not meet."""
    if not passages:
        return text
    begins = [0, *(passage.stop for passage in passages)]
    stops = [*(passage.begin for passage in passages), len(text)]
    kept = (text[begin:stop].strip() for begin, stop in zip(begins, stops, strict=True))
    return "\n".join(part for part in kept if part)
