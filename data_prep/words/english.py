"""Words and sentences as spaCy's English tokenizer and sentencizer have them, by which datatrove's filters count.

`english.json` holds spaCy's own rules (MIT licence, in that file). spaCy makes an object of every word; here the rules are
applied once to each different run of characters between white space, and what came out is looked up from then on.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

_FILE = Path(__file__).with_name("english.json")

_NEAR = 8
"""Characters at an end of a run in which its prefix or suffix is looked for, with what must stand beside it: all are shorter,
but rows of dots."""
_LONGEST_URL = 2048
"""A longer run is no address: the expression takes time by the square of the length."""
_REMEMBERED = 1 << 18
LONGEST_REMEMBERED = 128


@functools.lru_cache(1)
def words(text: str) -> Sequence[str]:
    """Return the words of `text`, punctuation marks among them, as spaCy's English tokenizer splits it; no white space.

    The latest text's are kept: several steps ask for the same.
    """
    return tuple(chain.from_iterable(map(_splits().__getitem__, text.split())))


def sentences(line: str) -> int:
    """Return how many sentences spaCy's sentencizer finds in `line`; one of white space alone does not count."""
    if not line.strip():
        return 0
    splits = _splits()
    count, ended, blank = 1, False, True
    end = 0
    for run in _RUN.finditer(line):
        # One blank between two words is none of spaCy's tokens; any other white space is one, and begins a sentence.
        begin = run.start()
        if ended and begin > end and line[end:begin] != " ":
            count, ended, blank = count + 1, False, True
        for word in splits[run.group()]:
            stops = word in splits.sentence_ends
            if ended and not stops and not _is_punctuation(word):
                count, ended = count + 1, False
            elif stops:
                ended = True
            blank = False
        end = run.end()
    return count - blank


_RUN = re.compile(r"\S+")
_PLAIN = re.compile("[A-Za-z]+").fullmatch
"""No rule splits ASCII letters: this saves looking."""


def _is_punctuation(word: str) -> bool:
    return _remembered_punctuation(word) if len(word) <= LONGEST_REMEMBERED else _remembered_punctuation.__wrapped__(word)


@functools.lru_cache(4096)
def _remembered_punctuation(word: str) -> bool:
    return all(unicodedata.category(character).startswith("P") for character in word)


class _Splits(dict[str, tuple[str, ...]]):
    """Runs without white space, each with its words; what is not in it yet is split by the rules."""

    def __init__(self) -> None:
        rules = json.loads(_FILE.read_text(encoding="utf-8"))
        self._prefix = re.compile(rules["prefix"]).search
        self._suffix = re.compile(rules["suffix"]).search
        self._infixes = re.compile(rules["infix"]).finditer
        self._url = re.compile(rules["url"]).match
        self.sentence_ends = frozenset(rules["sentence_ends"])
        self._exceptions = {"".join(parts): parts for parts in map(tuple, map(str.split, rules["exceptions"]))}
        self._longest = max(map(len, self._exceptions))
        # Exceptions that the rules would split otherwise are found again in what they were split into, as in `(it's)it's`.
        self._split_exceptions = {
            tuple(self._split(run, plain=True)): run
            for run in self._exceptions
            if self._prefix(run) or self._suffix(run) or next(self._infixes(run), None)
        }
        self._most = max(map(len, self._split_exceptions))
        self._firsts = frozenset(parts[0] for parts in self._split_exceptions)

    def __missing__(self, run: str) -> tuple[str, ...]:
        found = self._exceptions.get(run) or self._joined(self._split(run))
        if len(run) <= LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[run] = found
        return found

    def _split(self, run: str, plain: bool = False) -> list[str]:
        """Take prefixes and suffixes off in turn, until an exception is left (unless `plain`), then split at infixes."""
        exceptions = {} if plain else self._exceptions
        begin, end = 0, len(run)
        prefixes: list[str] = []
        suffixes: list[str] = []
        while begin < end:
            if self._excepted(run, begin, end, exceptions) or _PLAIN(run, begin, end):
                break
            prefix = self._prefix_length(run, begin, end)
            if prefix and self._excepted(run, begin + prefix, end, exceptions):
                prefixes.append(run[begin : begin + prefix])
                begin += prefix
                break
            suffix = self._suffix_length(run, begin + prefix, end)
            if suffix and self._excepted(run, begin, end - suffix, exceptions):
                suffixes.append(run[end - suffix : end])
                end -= suffix
                break
            if not prefix and not suffix:
                break
            if prefix:
                prefixes.append(run[begin : begin + prefix])
                begin += prefix
            if suffix:
                suffixes.append(run[end - suffix : end])
                end -= suffix
        rest = run[begin:end]
        if not rest:
            middle = []
        elif rest in exceptions:
            middle = list(exceptions[rest])
        elif _PLAIN(rest) or (len(rest) <= _LONGEST_URL and "." in rest and self._url(rest)):
            middle = [rest]
        else:
            middle = self._split_at_infixes(rest)
        return [*prefixes, *middle, *reversed(suffixes)]

    def _excepted(self, run: str, begin: int, end: int, exceptions: dict[str, tuple[str, ...]]) -> bool:
        return 0 < end - begin <= self._longest and run[begin:end] in exceptions

    def _prefix_length(self, run: str, begin: int, end: int) -> int:
        match = self._prefix(run[begin : min(end, begin + _NEAR)])
        if match and match.end() == _NEAR:
            match = self._prefix(run[begin:end])
        return match.end() if match else 0

    def _suffix_length(self, run: str, begin: int, end: int) -> int:
        match = self._suffix(run[max(begin, end - _NEAR) : end])
        if match and match.end() - match.start() == _NEAR:
            match = self._suffix(run[begin:end])
        return match.end() - match.start() if match else 0

    def _split_at_infixes(self, rest: str) -> list[str]:
        parts: list[str] = []
        begin = 0
        for infix in self._infixes(rest):
            if infix.start() == 0:
                continue
            parts += (rest[begin : infix.start()], infix.group())
            begin = infix.end()
        return [part for part in (*parts, rest[begin:]) if part]

    def _joined(self, parts: list[str]) -> tuple[str, ...]:
        """Put exceptions that were split by the rules back together, the longest first."""
        if self._firsts.isdisjoint(parts):
            return tuple(parts)
        found = [
            (length, -place)
            for place, part in enumerate(parts)
            if part in self._firsts
            for length in range(1, min(self._most, len(parts) - place) + 1)
            if tuple(parts[place : place + length]) in self._split_exceptions
        ]
        taken: set[int] = set()
        chosen: dict[int, int] = {}
        for length, negative in sorted(found, reverse=True):
            place = -negative
            if place not in taken and place + length - 1 not in taken:
                chosen[place] = length
            taken.update(range(place, place + length))
        joined: list[str] = []
        place = 0
        while place < len(parts):
            length = chosen.get(place, 1)
            if place in chosen:
                joined += self._exceptions[self._split_exceptions[tuple(parts[place : place + length])]]
            else:
                joined.append(parts[place])
            place += length
        return tuple(joined)


@functools.cache
def _splits() -> _Splits:
    return _Splits()
