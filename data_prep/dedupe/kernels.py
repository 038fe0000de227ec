"""The compiled loops of deduplication.

All are in one file: what numba keeps compiled from an earlier run it holds against the file of the function called, not
against those of the functions and constants that it calls in turn, and would go on with old ones.

Arguments that several have: `codes`, the code points of a text, or of all texts one after the other, uint32; `ends`, where
each text ends in them; `table`, word_table(); `ngram`, the words of a shingle.
"""

import numba
import numpy as np

ALONE = 1 << 31
"""Set in the table's entry of a character that is a word by itself."""
WORD = 1 << 30
"""Set, in span_table(), in the entry of a letter, digit or mark."""
_BLOCK = 4096
"""Hashes that are taken through all permutations together: they stay in the first cache."""

# Fixed for good: signatures of different runs must agree.
_WORD_SEED = np.uint64(0x9E3779B97F4A7C15)
_WORD_FACTOR = np.uint64(0xD6E8FEB86659FD93)
_BASE = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)  # MurmurHash3's 64-bit finaliser
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)


@numba.njit(cache=True, nogil=True, inline="always")
def _mixed(value: np.uint64) -> np.uint64:
    """Return a bijection of 64 bits in which every bit depends on every bit."""
    value = (value ^ (value >> _SHIFT)) * _MIX_1
    value = (value ^ (value >> _SHIFT)) * _MIX_2
    return value ^ (value >> _SHIFT)


@numba.njit(cache=True, nogil=True)
def shingle_hashes(
    codes: np.ndarray, table: np.ndarray, ngram: int, hashes: np.ndarray, begins: np.ndarray, stops: np.ndarray
) -> int:
    """Write the hashes of a text's shingles, repeated ones too, to the front of `hashes`; return the number of its words.

    A text of fewer than `ngram` words has one shingle, of all of them.

    Args:
        hashes: uint32 or uint64, as long as `codes` at least; of fewer bits the highest are written.
        begins: int64, empty or as long: written, the place of a shingle's first character.
        stops: int64, likewise: the place behind its last one.
    """
    last = np.uint32(len(table) - 1)
    alone = np.uint32(ALONE)
    shift = np.uint64(64 - 8 * hashes.itemsize)
    located = len(begins) > 0
    ring = np.zeros(ngram, dtype=np.uint64)  # the latest words
    first = np.zeros(ngram, dtype=np.int64)  # and where they begin
    leaving = np.uint64(1)
    for _ in range(ngram):
        leaving *= _BASE
    rolling = np.uint64(0)
    words = 0
    count = 0
    slot = 0
    place = 0
    while place < len(codes):
        character = table[min(codes[place], last)]
        place += 1
        if character == 0:
            continue
        if located:
            first[slot] = place - 1
        word = (_WORD_SEED ^ np.uint64(character)) * _WORD_FACTOR
        if character < alone:
            while place < len(codes):
                character = table[min(codes[place], last)]
                if character == 0 or character >= alone:
                    break
                word = (word ^ np.uint64(character)) * _WORD_FACTOR
                place += 1
        word = _mixed(word)
        # A polynomial in _BASE whose coefficients are the latest words: the oldest leaves, the new one enters.
        rolling = rolling * _BASE + word - ring[slot] * leaving
        ring[slot] = word
        slot += 1
        if slot == ngram:
            slot = 0
        words += 1
        if words >= ngram:
            hashes[count] = _mixed(rolling) >> shift
            if located:
                # The oldest word stands where the next one goes.
                begins[count], stops[count] = first[slot], place
            count += 1
    if 0 < words < ngram:
        hashes[0] = _mixed(rolling) >> shift
    return words


@numba.njit(cache=True, nogil=True)
def sign(
    codes: np.ndarray,
    ends: np.ndarray,
    table: np.ndarray,
    ngram: int,
    factors: np.ndarray,
    addends: np.ndarray,
    signatures: np.ndarray,
    worded: np.ndarray,
) -> None:
    """Fill in the texts' signatures [texts, permutations] and whether there are words.

    Args:
        factors: uint32, odd; permutation i takes a hash h to factors[i] h + addends[i] modulo 2**32.
        addends: uint32.
        signatures: uint32, written.
        worded: bool, written.
    """
    longest = 0
    start = 0
    for end in ends:
        longest = max(longest, end - start)
        start = end
    hashes = np.empty(longest, dtype=np.uint32)
    nowhere = np.empty(0, dtype=np.int64)
    start = 0
    for text in range(len(ends)):
        words = shingle_hashes(codes[start : ends[text]], table, ngram, hashes, nowhere, nowhere)
        count = max(words - ngram + 1, min(words, 1))
        start = ends[text]
        worded[text] = count > 0
        signature = signatures[text]
        signature[:] = np.uint32(0xFFFFFFFF)
        for block in range(0, count, _BLOCK):
            _lower(signature, hashes[block : min(block + _BLOCK, count)], factors, addends)


@numba.njit(cache=True, nogil=True)
def _lower(signature: np.ndarray, hashes: np.ndarray, factors: np.ndarray, addends: np.ndarray) -> None:
    """Take the minimum over `hashes` of every permutation; the inner loop is a reduction, which LLVM vectorizes."""
    for row in range(len(signature)):
        factor, addend = factors[row], addends[row]
        least = signature[row]
        for place in range(len(hashes)):
            least = min(least, np.uint32(hashes[place] * factor + addend))
        signature[row] = least


@numba.njit(cache=True, nogil=True)
def mark(hashes: np.ndarray, bits: np.ndarray, shift: int) -> None:
    """Set the bit of each hash, uint64, that its bits above `shift` number; `bits` is uint8, eight in each."""
    for place in range(len(hashes)):
        bit = hashes[place] >> np.uint64(shift)
        bits[bit >> np.uint64(3)] |= np.uint8(1) << np.uint8(bit & np.uint64(7))


@numba.njit(cache=True, nogil=True)
def among(hashes: np.ndarray, bits: np.ndarray, shift: int, keys: np.ndarray, found: np.ndarray) -> int:
    """Write the places of the hashes that are among the keys to the front of `found`; return their number.

    Args:
        hashes: uint64.
        bits: those that `mark` set of the keys, by which most hashes are seen not to be among them.
        shift: as in `mark`.
        keys: uint64, ascending.
        found: int64, as long as `hashes` at least.
    """
    count = 0
    for place in range(len(hashes)):
        bit = hashes[place] >> np.uint64(shift)
        if not (bits[bit >> np.uint64(3)] >> np.uint8(bit & np.uint64(7))) & np.uint8(1):
            continue
        key = np.searchsorted(keys, hashes[place])
        if key < len(keys) and keys[key] == hashes[place]:
            found[count] = place
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def band_keys(signatures: np.ndarray, bands: int) -> np.ndarray:
    """Return the hash of each band's rows, uint64 [bands, texts]."""
    texts, permutations = signatures.shape
    rows = permutations // bands
    keys = np.empty((bands, texts), dtype=np.uint64)
    for text in range(texts):
        for band in range(bands):
            key = np.uint64(0)
            for row in range(band * rows, (band + 1) * rows):
                key = _mixed(key ^ np.uint64(signatures[text, row])) + np.uint64(1)
            keys[band, text] = key
    return keys


@numba.njit(cache=True, nogil=True)
def agreeing(left: np.ndarray, right: np.ndarray, needed: int) -> np.int64:
    """Return in how many rows two signatures agree, or 0 where it is fewer than `needed`.

    All rows are compared: a loop without an exit, counting in the rows' own width, is vectorized, and 20 times as fast as
    one that gives up early.
    """
    agree = np.uint32(0)
    for row in range(len(left)):
        agree = np.uint32(agree + np.uint32(left[row] == right[row]))
    return np.int64(agree) if agree >= needed else np.int64(0)


@numba.njit(cache=True, nogil=True)
def agreeing_pairs(left: np.ndarray, right: np.ndarray, places: np.ndarray, needed: int) -> np.ndarray:
    """Return `agreeing` of each row i of `left` and row places[i] of `right`, int64."""
    agree = np.empty(len(left), dtype=np.int64)
    for pair in range(len(left)):
        agree[pair] = agreeing(left[pair], right[places[pair]], needed)
    return agree


@numba.njit(cache=True, nogil=True)
def _root(parents: np.ndarray, place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = parents[place]
    return place


@numba.njit(cache=True, nogil=True)
def join(parents: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Join the components of each pair of places; the smallest place is a component's root."""
    for pair in range(len(left)):
        a, b = _root(parents, left[pair]), _root(parents, right[pair])
        if a < b:
            parents[b] = a
        else:
            parents[a] = b


@numba.njit(cache=True, nogil=True)
def flatten(parents: np.ndarray) -> None:
    """Make every place's parent its root; a parent is never above its child."""
    for place in range(len(parents)):
        parents[place] = parents[parents[place]]


@numba.njit(cache=True, nogil=True)
def choose(
    signatures: np.ndarray,
    members: np.ndarray,
    starts: np.ndarray,
    needed: int,
    representatives: np.ndarray,
    representative_signatures: np.ndarray,
    used: np.ndarray,
    count: int,
    kept: np.ndarray,
    agree: np.ndarray,
) -> int:
    """Find, in ascending order, each member's similar one that stays in its cluster, or that there is none and it stays.

    Args:
        signatures: the members', uint32 [members, permutations].
        members: documents, cluster after cluster, ascending in each.
        starts: whether a cluster begins with a member, bool.
        needed: rows that similar ones agree in.
        representatives: documents of the cluster that stay, int64; its length is how many are compared with.
        representative_signatures: their signatures.
        used: the last document that each was found for, itself at first: where all places are taken, the least goes.
        count: how many of the cluster's earlier members are in the three.
        kept: written: the one that stays instead, or -1.
        agree: written: in how many rows.

    Returns:
        `count` for the members that follow.
    """
    for member in range(len(members)):
        if starts[member]:
            count = 0
        kept[member], agree[member] = -1, 0
        for other in range(count):
            rows = agreeing(signatures[member], representative_signatures[other], needed)
            if rows:
                kept[member], agree[member] = representatives[other], rows
                used[other] = members[member]
                break
        if kept[member] < 0:
            place = count
            if count == len(representatives):
                place = int(np.argmin(used))
            else:
                count += 1
            representatives[place] = used[place] = members[member]
            representative_signatures[place] = signatures[member]
    return count


@numba.njit(cache=True, nogil=True)
def find_spans(
    codes: np.ndarray,
    ends: np.ndarray,
    table: np.ndarray,
    paragraphs: bool,
    min_words: int,
    high: np.ndarray,
    low: np.ndarray,
    lines: np.ndarray,
    counts: np.ndarray,
) -> int:
    """Hash the lines or paragraphs of texts that have `min_words` words at least; return how many there are.

    Args:
        table: span_table().
        paragraphs: whether runs of lines between blank ones are hashed, rather than lines.
        min_words: the fewest words.
        high: uint64, as long as there are lines: written, the upper halves of the hashes.
        low: uint64, likewise.
        lines: int64 [as long, 2], written: a span's first line in its text, and the line behind its last one.
        counts: int64 [texts], written: the spans of each text.
    """
    last = np.uint32(len(table) - 1)
    alone, is_word, code = np.uint32(ALONE), np.uint32(WORD), np.uint32(WORD - 1)
    found = place = 0
    for text in range(len(ends)):
        before = found
        line = first = words = 0
        in_word, blank = False, True  # of the line
        empty = True  # of the span
        one, other = _WORD_SEED, _BASE
        while place <= ends[text]:
            at_end = place == ends[text]
            entry = np.uint32(0)
            if not at_end:
                entry = codes[place] if codes[place] > last else table[codes[place]]
            ends_line = at_end or codes[place] == 10
            if not ends_line:
                place += 1
                if entry == 0:
                    in_word = False
                    continue
                if empty:
                    empty, first = False, line
                blank = False
                one = (one ^ np.uint64(entry & code)) * _WORD_FACTOR
                other = (other ^ np.uint64(entry & code)) * _MIX_1
                if entry >= alone:
                    words += 1
                    in_word = False
                elif entry & is_word:
                    words += not in_word
                    in_word = True
                else:
                    in_word = False
                continue
            in_word = False
            if not empty and (at_end or not paragraphs or blank):
                if words >= min_words:
                    high[found], low[found] = _mixed(one), _mixed(other)
                    # A blank line that ends a paragraph does not belong to it.
                    lines[found, 0], lines[found, 1] = first, line if blank else line + 1
                    found += 1
                empty, words = True, 0
                one, other = _WORD_SEED, _BASE
            blank = True
            line += 1
            place += 1
        place = ends[text]  # the end of a text takes no character
        counts[text] = found - before
    return found


@numba.njit(cache=True, nogil=True)
def find_pairs(high: np.ndarray, low: np.ndarray, sorted_high: np.ndarray, sorted_low: np.ndarray, places: np.ndarray) -> None:
    """Write the place of each pair of uint64 among those that are sorted by both, -1 where it is not there."""
    for row in range(len(high)):
        begin, stop = 0, len(sorted_high)
        while begin < stop:
            middle = (begin + stop) // 2
            if sorted_high[middle] < high[row] or (sorted_high[middle] == high[row] and sorted_low[middle] < low[row]):
                begin = middle + 1
            else:
                stop = middle
        is_found = begin < len(sorted_high) and sorted_high[begin] == high[row] and sorted_low[begin] == low[row]
        places[row] = begin if is_found else -1
