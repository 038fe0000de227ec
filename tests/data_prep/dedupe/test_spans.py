"""Lines and paragraphs that other documents hold, beside sets of Python's strings."""

import random

import numpy as np
import pytest

from data_prep.dedupe import repeats
from data_prep.dedupe.deduplicate import Deduplicated
from data_prep.dedupe.filtering import EXACT_COPY, KEPT_HELDOUT, KEPT_TRAIN, REPEATED_TEXT
from data_prep.dedupe.spans import SpanFinder, without_lines
from data_prep.text.document_parts import read_documents
from tests.data_prep.dedupe.prepared import Corpus, Prepared

_PIECES = [
    *"one Two TWO 漢 字 ! Σ σ ς".split(),
    *(" ", "  ", "\t", "\n", "\n", "\n\n", "\n \n\n", "\r\n", "\u3000", "\U000f0000"),
]
_WORDS = {"one", "two", "漢", "字", "σ"}


def _texts(seed: int, count: int, longest: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choice(_PIECES) for _ in range(draw.randrange(longest))) for _ in range(count)]


def _searched(text: str, unit: str, min_words: int) -> list[tuple[int, int, str]]:
    """(first line, line behind the last one, what is compared)."""
    lines = text.split("\n")
    found: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        if unit == "paragraph" and found and found[-1][1] == number:
            found[-1] = found[-1][0], number + 1
        else:
            found.append((number, number + 1))
    texts = ["\n".join(lines[begin:stop]) for begin, stop in found]
    return [
        (*place, "".join(text.split()).casefold())
        for place, text in zip(found, texts, strict=True)
        if _words(text) >= min_words
    ]


def _words(text: str) -> int:
    """Words of texts of _PIECES: letters in a row, each ideograph."""
    for ideograph in "漢字":
        text = text.replace(ideograph, f" {ideograph} ")
    return len("".join(each if each.isalpha() else " " for each in text).split())


@pytest.mark.parametrize("unit", ["line", "paragraph"])
@pytest.mark.parametrize("min_words", [1, 2, 3])
def test_spans_are_those_that_python_finds_and_equal_up_to_case_and_white_space(unit, min_words):
    texts = ["", "\n\n", *_texts(min_words, 2000, 25)]
    spans = SpanFinder(unit, min_words)(texts)
    hashes: dict[str, tuple[int, int]] = {}
    place = 0
    for text, count in zip(texts, spans.counts.tolist(), strict=True):
        expected = _searched(text, unit, min_words)
        assert spans.lines[place : place + count].tolist() == [[begin, stop] for begin, stop, _ in expected]
        for number, (_, _, content) in enumerate(expected, start=place):
            found = int(spans.high[number]), int(spans.low[number])
            assert hashes.setdefault(content, found) == found
        place += count
    assert place == len(spans.high)
    for half in (0, 1):
        assert len({found[half] for found in hashes.values()}) == len(hashes) > 500


@pytest.mark.parametrize(
    ("text", "removed", "left"),
    [
        ("a\nx\nb", [1], "a\nb"),
        ("a\n\nx\n\nb", [2], "a\n\nb"),
        ("a\n\nx\n\ny\n\nb", [2, 4], "a\n\nb"),
        ("a\n\n\n\nx\n\nb", [4], "a\n\n\n\nb"),
        ("a\nx\n\nb", [1], "a\n\nb"),
        ("a\n\nx\nb", [2], "a\n\nb"),
        ("x\n\na", [0], "a"),
        ("a\n\nx", [2], "a"),
        ("a\n \nx\n\t\n", [2], "a\n"),
        ("a\nx\n", [1], "a\n"),
        ("a\r\n\r\nx\r\n\r\nb\r\n", [2], "a\r\n\r\nb\r\n"),
        ("x\n\ny", [0, 2], ""),
        ("a\n\n\nb\n\nx\nc\n\n\nd", [5], "a\n\n\nb\n\nc\n\n\nd"),
    ],
)
def test_blank_lines_around_what_is_removed_do_not_add_up(text, removed, left):
    assert without_lines(text, np.array(removed)) == left


def _left(prepared: Prepared, found: Deduplicated) -> list[str | None]:
    """Each document's text, None where it was dropped."""
    texts: list[str | None] = []
    for part in found.parts:
        dropped = found.decisions.of(part) >= EXACT_COPY
        texts += [None if dropped[row] else document.text for row, document in read_documents(found.parts.path(part))]
    return texts


@pytest.mark.parametrize(
    ("unit", "min_words", "min_documents", "keep"),
    [("line", 1, 2, "first"), ("line", 2, 3, "none"), ("paragraph", 2, 2, "first"), ("paragraph", 1, 4, "none")],
)
def test_what_is_removed_is_what_sets_of_strings_say(tmp_path, unit, min_words, min_documents, keep):
    texts = [text for text in _texts(7, 450, 40) if text.strip()]
    options = {"unit": unit, "min_words": min_words, "min_documents": min_documents, "keep": keep}
    prepared = Prepared(tmp_path, [Corpus("a", "exact", texts, dedupe_spans=options)], per_part=90)
    found = prepared.dedupe_spans()

    decisions = prepared.decisions(prepared.deduplicate())
    holders: dict[str, list[int]] = {}
    for document, text in enumerate(texts):
        if decisions[document] < EXACT_COPY:
            for content in {content for *_, content in _searched(text, unit, min_words)}:
                holders.setdefault(content, []).append(document)
    changed = 0
    for document, (text, left) in enumerate(zip(texts, _left(prepared, found), strict=True)):
        if decisions[document] >= EXACT_COPY:
            assert left is None
            continue
        gone = {
            line
            for begin, stop, content in _searched(text, unit, min_words)
            if len(holders[content]) >= min_documents and not (keep == "first" and holders[content][0] == document)
            for line in range(begin, stop)
        }
        changed += bool(gone)
        expected = [line for number, line in enumerate(text.split("\n")) if line.strip() and number not in gone]
        assert [line for line in (left or "").split("\n") if line.strip()] == expected
        assert (left is None) == (not expected), "a document of which nothing is left is dropped"
        if not gone:
            assert left == text
    assert changed > 50


def test_a_footer_of_a_thousand_documents_stays_in_the_first_and_is_reported(tmp_path):
    draw = random.Random(1)
    words = [" ".join(draw.choice("abcdefgh") * 3 for _ in range(30)) for _ in range(1000)]
    footer = "Copyright of all pages is with their authors"
    bodies = [f"Page {number}\n\ntext number {number} of {text}" for number, text in enumerate(words)]
    pages = [f"{body}\n\n{footer}" for body in bodies]
    corpus = Corpus("web", "near", pages, heldout=frozenset({0}), dedupe_spans={})
    found = (prepared := Prepared(tmp_path, [corpus])).dedupe_spans()
    assert _left(prepared, found) == [pages[0], *bodies[1:]]
    assert prepared.decisions(found.decisions) == [KEPT_HELDOUT] + [KEPT_TRAIN] * 999
    lost = ("changed", "dedupe_spans"), ("removed", "paragraphs")
    assert [sum(facts.counts[kind][key] for facts in found.rewritten) for kind, key in lost] == [999, 999]
    (example,) = found.report()
    assert (example["documents"], example["text"], example["where"]) == (1000, footer, "row 0")
    assert sum(part.characters for part in found.parts) == sum(len(text) for text in _left(prepared, found))
    assert sum(part.bytes for part in found.parts) == sum(len(text) for text in _left(prepared, found))


def test_a_document_of_which_nothing_is_left_is_dropped_and_shown_whole(tmp_path):
    line = "this line stands in two documents"
    prepared = Prepared(
        tmp_path, [Corpus("a", "exact", [f"first\n\n{line}", f"{line}\n{line}"], dedupe_spans={"unit": "line"})]
    )
    found = prepared.dedupe_spans()
    assert prepared.decisions(found.decisions) == [KEPT_TRAIN, REPEATED_TEXT]
    assert found.parts.document(1).text == f"{line}\n{line}"
    (dropped,) = (each for each in found.report() if each["kind"] == "dropped")
    example = {"corpus": "a", "reason": "repeated text", "where": "row 1", "text": f"{line}\n{line}", "columns": {}}
    assert dropped == {"kind": "dropped"} | example


def test_copies_count_for_nothing_and_stay_as_they_are_and_a_line_that_one_document_repeats_stays(tmp_path):
    refrain, common = "a line that one song repeats again", "a line that two of the songs hold"
    song = f"{refrain}\n{common}\n{refrain}"
    texts = [song, song.upper(), f"another\n{common}"]
    options = {"unit": "line", "keep": "none"}
    prepared = Prepared(tmp_path, [Corpus("a", "exact", texts, dedupe_spans=options)])
    found = prepared.dedupe_spans()
    assert _left(prepared, found) == [f"{refrain}\n{refrain}", None, "another"]
    assert found.parts.document(1).text == song.upper()


def test_of_a_part_that_holds_nothing_but_copies_nothing_is_removed(tmp_path):
    texts = ["first\na line that stands in two", "another\na line that stands in two"]
    prepared = Prepared(tmp_path, [Corpus("a", "exact", texts * 2, dedupe_spans={"unit": "line"})], per_part=2)
    assert _left(prepared, prepared.dedupe_spans()) == [texts[0], "another", None, None]


def test_corpora_are_searched_together_each_by_its_own_options_and_others_neither_give_nor_take(tmp_path):
    line = "a line that many corpora hold"
    texts = [f"{name} begins\n{line}\n{name} ends" for name in "pqrstu"]
    prepared = Prepared(
        tmp_path,
        [
            Corpus("raw", "exact", texts[:1]),
            Corpus("a", "none", texts[1:3], dedupe_spans={"unit": "line"}),
            Corpus("b", "exact", texts[3:4], dedupe_spans={"unit": "line", "min_documents": 5}),
            Corpus("c", "near", texts[4:], dedupe_spans={"unit": "line", "keep": "none"}),
        ],
    )
    without = [text.replace(f"{line}\n", "") for text in texts]
    expected = [*texts[:2], without[2], *without[3:]]
    assert _left(prepared, prepared.dedupe_spans()) == expected


def test_any_number_of_processes_and_of_ranges_leaves_the_same(tmp_path, monkeypatch):
    corpora = [
        Corpus("a", "exact", _texts(1, 200, 40), dedupe_spans={"unit": "line", "min_words": 2}),
        Corpus("b", "exact", _texts(2, 200, 40), dedupe_spans={"unit": "paragraph", "min_words": 2}),
    ]
    alone, together, ranged = (Prepared(tmp_path / name, corpora, memory_mib=1) for name in ("alone", "together", "ranged"))
    found, others = alone.dedupe_spans(), together.dedupe_spans(workers=3)
    assert alone.files() == together.files() and found.report() == others.report()
    monkeypatch.setattr(repeats, "BYTES_PER_SPAN", 1 << 14)
    apart = ranged.dedupe_spans()
    assert len(list((tmp_path / "ranged" / "work" / "repeats").glob("*.npy"))) > 5
    assert _left(ranged, apart) == _left(alone, found) and apart.report() == found.report()
