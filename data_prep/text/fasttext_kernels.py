"""The compiled loops of a fastText model; in one file, as those of deduplication are and for the same reason."""

import math

import numba
import numpy as np

UNUSED = -1
BUCKETS = 2_000_000
"""Of n-grams; a constant, by which the compiler divides faster than by a variable."""
_BUCKETS = np.uint32(BUCKETS)
_OFFSET = np.uint32(2166136261)  # FNV-1a, 32 bits
_PRIME = np.uint32(16777619)
_BELOW, _ABOVE = np.uint8(ord("<")), np.uint8(ord(">"))
_LABEL = np.frombuffer(b"__label__", np.uint8)


@numba.njit(cache=True, nogil=True, inline="always")
def _hashed(value: np.uint32, byte: np.uint8) -> np.uint32:
    """Take one more byte into a hash; fastText reads bytes as signed."""
    return np.uint32((value ^ np.uint32(np.int8(byte))) * _PRIME)


@numba.njit(cache=True, nogil=True, inline="always")
def _goes_on(byte: np.uint8) -> bool:
    """Whether a byte is not the first one of its character."""
    return (byte & np.uint8(0xC0)) == np.uint8(0x80)


@numba.njit(cache=True, nogil=True)
def _hash(content: np.ndarray) -> np.uint32:
    value = _OFFSET
    for byte in content:
        value = _hashed(value, byte)
    return value


@numba.njit(cache=True, nogil=True)
def word_slots(words: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return a hash table of the words, int32, by linear probing; its length is a power of two.

    Args:
        words: the bytes of all, one after the other.
        ends: where each begins, and the end of the last one.
    """
    size = 1
    while size < 4 * len(ends):
        size *= 2
    slots = np.full(size, UNUSED, dtype=np.int32)
    for word in range(len(ends) - 1):
        slot = _hash(words[ends[word] : ends[word + 1]]) & np.uint32(size - 1)
        while slots[slot] != UNUSED:
            slot = np.uint32((slot + np.uint32(1)) & np.uint32(size - 1))
        slots[slot] = word
    return slots


@numba.njit(cache=True, nogil=True)
def _word(token: np.ndarray, words: np.ndarray, ends: np.ndarray, slots: np.ndarray) -> int:
    """Return the number of a token among the words, or UNUSED."""
    last = np.uint32(len(slots) - 1)
    slot = _hash(token) & last
    while slots[slot] != UNUSED:
        word = slots[slot]
        if np.array_equal(token, words[ends[word] : ends[word + 1]]):
            return word
        slot = np.uint32((slot + np.uint32(1)) & last)
    return UNUSED


@numba.njit(cache=True, nogil=True)
def predict(
    content: np.ndarray,
    words: np.ndarray,
    ends: np.ndarray,
    slots: np.ndarray,
    used: np.ndarray,
    rows_of: np.ndarray,
    rows: np.ndarray,
    output: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    shortest: int,
    longest: int,
) -> tuple[int, float]:
    """Return (the most probable label, its probability) of a text.

    Args:
        content: UTF-8.
        words: the dictionary's, as in `word_slots`; the first one ends a line.
        ends: likewise.
        slots: word_slots of them.
        used: a bit a bucket of n-grams: whether it has a row.
        rows_of: the row of each bucket, or UNUSED.
        rows: float32 [words and n-grams, dimensions].
        output: float32 [inner nodes of the tree, dimensions].
        left: the nodes' first children: labels, and above them nodes.
        right: the second ones.
        shortest: characters of an n-gram.
        longest: likewise.
    """
    hidden = np.zeros(rows.shape[1], dtype=np.float32)
    token = np.empty(len(content) + 2, dtype=np.uint8)
    count = 0
    place = 0
    while place < len(content):
        # White space as fastText knows it: blank, NUL and what moves the line.
        if content[place] == 32 or content[place] == 0 or 9 <= content[place] <= 13:
            place += 1
            continue
        length = 1
        while place < len(content) and not (content[place] == 32 or content[place] == 0 or 9 <= content[place] <= 13):
            token[length] = content[place]
            length += 1
            place += 1
        if length > len(_LABEL) and np.array_equal(token[1 : len(_LABEL) + 1], _LABEL):
            continue
        word = _word(token[1:length], words, ends, slots)
        if word == 0:
            break
        if word != UNUSED:
            hidden += rows[word]
            count += 1
        token[0], token[length] = _BELOW, _ABOVE
        length += 1
        for start in range(length):
            if _goes_on(token[start]):
                continue
            value = _OFFSET
            stop = start
            for characters in range(1, longest + 1):
                if stop == length:
                    break
                value = _hashed(value, token[stop])
                stop += 1
                while stop < length and _goes_on(token[stop]):
                    value = _hashed(value, token[stop])
                    stop += 1
                if characters < shortest:
                    continue
                bucket = value % _BUCKETS
                if (used[bucket >> np.uint32(3)] >> np.uint8(bucket & np.uint32(7))) & np.uint8(1):
                    row = rows_of[bucket]
                    for dimension in range(len(hidden)):
                        hidden[dimension] += rows[row, dimension]
                    count += 1
    # The end of the line is a word too.
    hidden += rows[0]
    hidden *= np.float32(1.0 / (count + 1))
    return _most_probable(hidden, output, left, right)


@numba.njit(cache=True, nogil=True)
def _most_probable(hidden: np.ndarray, output: np.ndarray, left: np.ndarray, right: np.ndarray) -> tuple[int, float]:
    """The leaf whose way from the root has the greatest probability, sigmoid(node . hidden) for each turn to the right."""
    labels = len(left) + 1
    scores = np.zeros(2 * labels - 1)
    for inner in range(len(left) - 1, -1, -1):  # the root is the last one
        product = np.float32(0)
        for dimension in range(len(hidden)):
            product += output[inner, dimension] * hidden[dimension]
        turn = 1 / (1 + math.exp(-product))
        # fastText adds 1e-5 before it takes a logarithm.
        scores[left[inner]] = scores[labels + inner] + math.log(1 - turn + 1e-5)
        scores[right[inner]] = scores[labels + inner] + math.log(turn + 1e-5)
    best = 0
    for label in range(labels):
        if scores[label] > scores[best]:
            best = label
    return best, math.exp(scores[best])
