"""A quantized, supervised fastText model with hierarchical softmax, read from its file, and what it says of a text.

Joulin et al. 2016, arXiv:1607.01759 and arXiv:1612.03651. The same label and, but for rounding, the same probability as
fastText's own `predict` gives, at a tenth of its time: n-grams are hashed as they grow, and few of them reach a hash table.
"""

import struct
from pathlib import Path

import numpy as np

from data_prep.text.fasttext_kernels import BUCKETS, UNUSED, predict, word_slots

_MAGIC, _VERSION = 793712314, 12
_HIERARCHICAL_SOFTMAX, _SUPERVISED = 1, 3
_CENTROIDS = 256


class FastTextModel:
    """A model's arrays; raises ValueError for a file of another kind."""

    def __init__(self, path: Path) -> None:
        reader = _Reader(path.read_bytes())
        magic, version, dim, _, _, _, _, word_ngrams, loss, kind, buckets, self._shortest, self._longest, _ = reader.values(
            "14i"
        )
        expected = (_MAGIC, _VERSION, 1, _HIERARCHICAL_SOFTMAX, _SUPERVISED, BUCKETS)
        if (magic, version, word_ngrams, loss, kind, buckets) != expected:
            raise ValueError(f"{path}: is no supervised fastText model with hierarchical softmax and {BUCKETS} buckets")
        reader.values("d")
        size, words, _, _, pruned = reader.values("iiiqq")
        entries = [reader.entry() for _ in range(size)]
        self.labels = [text.decode().removeprefix("__label__") for text, _ in entries[words:]]
        texts = [text for text, _ in entries[:words]]
        self._words = np.frombuffer(b"".join(texts), np.uint8)
        self._word_ends = np.cumsum([0, *map(len, texts)])
        self._slots = word_slots(self._words, self._word_ends)
        kept = reader.array(np.dtype("<i4"), pruned, 2)
        # Row of each bucket that was not pruned away.
        self._rows_of = np.full(BUCKETS, UNUSED, dtype=np.int32)
        self._rows_of[kept[:, 0]] = words + kept[:, 1]
        self._used = np.packbits(self._rows_of != UNUSED, bitorder="little")
        self._rows = reader.quantized(dim)
        if reader.values("?") != (False,):
            raise ValueError(f"{path}: has a quantized output, which is not read")
        self._output = reader.array(np.dtype("<f4"), *reader.values("qq"))
        self._left, self._right = _huffman([count for _, count in entries[words:]])

    def predict(self, text: str) -> tuple[str, float]:
        """Return (the most probable label without its prefix, its probability) of a text, whose line ends count as spaces."""
        content = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
        label, score = predict(
            content, self._words, self._word_ends, self._slots, self._used, self._rows_of, self._rows, self._output, self._left,
            self._right, self._shortest, self._longest,
        )  # fmt: skip
        # A sum of logarithms with 1e-5 added: a probability of 1.00001 is one of 1.
        return self.labels[label], min(score, 1.0)


class _Reader:
    """Reads a file's bytes from front to back."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    def values(self, form: str) -> tuple:
        form = f"<{form}"
        found = struct.unpack_from(form, self._content, self._place)
        self._place += struct.calcsize(form)
        return found

    def entry(self) -> tuple[bytes, int]:
        """A word or label of the dictionary, and how often training saw it."""
        end = self._content.index(b"\0", self._place)
        text = self._content[self._place : end]
        self._place = end + 1
        count, _ = self.values("qb")
        return text, count

    def array(self, dtype: np.dtype, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        found = np.frombuffer(self._content, dtype, count, self._place).reshape(shape)
        self._place += count * dtype.itemsize
        return found

    def quantized(self, dim: int) -> np.ndarray:
        """A product-quantized matrix, float32 [rows, dim]: a norm times the centroids that the row's codes name."""
        quantized, with_norms, rows, width = self.values("??qq")
        if not quantized or not with_norms or width != dim:
            raise ValueError("the input matrix is not quantized with norms")
        (count,) = self.values("i")
        codes = self.array(np.dtype("u1"), rows, count // rows)
        centroids = self.centroids()
        norm_codes = self.array(np.dtype("u1"), rows)
        norms = self.centroids()[0][norm_codes]
        return norms * centroids[np.arange(len(centroids)), codes].reshape(rows, dim)

    def centroids(self) -> np.ndarray:
        """Float32 [subspaces, 256, dimensions of each]."""
        _, subspaces, width, last = self.values("4i")
        if last != width:
            raise ValueError("subspaces of different widths are not read")
        return self.array(np.dtype("<f4"), subspaces, _CENTROIDS, width)


def _huffman(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(left, right) children of the tree's inner nodes, which are numbered from the number of labels on; counts descend."""
    labels = len(counts)
    counts = [*counts, *[10**15] * (labels - 1)]
    children = np.empty((2, labels - 1), dtype=np.int32)
    leaf, node = labels - 1, labels
    for inner in range(labels, 2 * labels - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and counts[leaf] < counts[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        counts[inner] = counts[pair[0]] + counts[pair[1]]
        children[:, inner - labels] = pair
    return children[0], children[1]
