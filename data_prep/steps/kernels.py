"""The compiled loops of steps; numba takes half a second to import, so steps import this at their first document."""

import numba
import numpy as np

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_SHIFT = np.uint64(32)


@numba.njit(cache=True, nogil=True)
def repetition(codes: np.ndarray, ends: np.ndarray, top: np.ndarray, duplicate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the characters that repeated n-grams of words take up, int64, for each n of `top` and each of `duplicate`.

    Of `top`, those of all occurrences of the n-gram that occurs most often, the first such one, with a blank between words; 0
    where there are fewer than n words. Of `duplicate`, those of n-grams whose characters, without blanks, occurred before; the
    next n-gram begins n words after such a one, and one word after any other.

    Args:
        codes: the code points of all words, one after the other, uint32.
        ends: where each word ends in them, int64.
        top: lengths of n-grams, int64.
        duplicate: the same.
    """
    words = len(ends)
    # A hash of characters [a, b) is hashes[b] - hashes[a] base^(b - a); equal hashes are compared character by character.
    hashes = np.zeros(len(codes) + 1, dtype=np.uint64)
    for place in range(len(codes)):
        hashes[place + 1] = hashes[place] * _BASE + np.uint64(codes[place]) + np.uint64(1)
    bits = 4
    while (1 << bits) < 2 * words:
        bits += 1
    table = np.zeros(1 << bits, dtype=np.int32)
    counts = np.zeros(words, dtype=np.int32)
    top_characters = np.zeros(len(top), dtype=np.int64)
    for case in range(len(top)):
        n = top[case]
        if words < n:
            continue
        table[:] = 0
        counts[:] = 0
        for first in range(words - n + 1):
            counts[_first_equal(codes, ends, hashes, table, first, n, True)] += 1
        best = 0
        for first in range(words - n + 1):
            if counts[first] > counts[best]:
                best = first
        begin = ends[best - 1] if best else 0
        top_characters[case] = (ends[best + n - 1] - begin + n - 1) * counts[best]
    duplicate_characters = np.zeros(len(duplicate), dtype=np.int64)
    for case in range(len(duplicate)):
        n = duplicate[case]
        table[:] = 0
        first = 0
        while first < words - n + 1:
            if _first_equal(codes, ends, hashes, table, first, n, False) == first:
                first += 1
            else:
                duplicate_characters[case] += ends[first + n - 1] - (ends[first - 1] if first else 0)
                first += n
    return top_characters, duplicate_characters


@numba.njit(cache=True, nogil=True)
def _first_equal(
    codes: np.ndarray, ends: np.ndarray, hashes: np.ndarray, table: np.ndarray, first: int, n: int, same_words: bool
) -> int:
    """Return the first word of the earliest n-gram in the table that equals this one, which is put there if there is none."""
    begin = ends[first - 1] if first else 0
    length = ends[first + n - 1] - begin
    power = np.uint64(1)
    square = _BASE
    left = length
    while left:
        if left & 1:
            power *= square
        square *= square
        left >>= 1
    value = (hashes[begin + length] - hashes[begin] * power) * _MIX
    value ^= value >> _SHIFT
    mask = len(table) - 1
    slot = np.int64(value) & mask
    while table[slot]:
        other = table[slot] - 1
        other_begin = ends[other - 1] if other else 0
        equal = ends[other + n - 1] - other_begin == length
        if equal and same_words:
            for word in range(n):
                if ends[other + word] - other_begin != ends[first + word] - begin:
                    equal = False
                    break
        if equal:
            for place in range(length):
                if codes[other_begin + place] != codes[begin + place]:
                    equal = False
                    break
        if equal:
            return other
        slot = (slot + 1) & mask
    table[slot] = first + 1
    return first
