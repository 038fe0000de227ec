import pytest

from data_prep.dedupe import exact
from data_prep.dedupe.filtering import EXACT_COPY, KEPT_HELDOUT, KEPT_TRAIN, NEAR_COPY
from tests.data_prep.dedupe.planted import Writer, prose
from tests.data_prep.dedupe.prepared import Corpus, Prepared, decided


def _texts(seed: int, count: int) -> list[str]:
    writer = Writer(seed, vocabulary=1000)
    return [prose(writer.words(30)) for _ in range(count)]


def test_copies_that_differ_in_case_and_white_space_are_dropped_for_the_first(tmp_path):
    first, second = _texts(0, 2)
    texts = [first, second, first.upper(), second.replace(" ", "\n\n  "), first + ".", f"\t{first}"]
    every, decisions = decided(tmp_path, Corpus("a", "exact", texts), per_part=2)
    assert every == [KEPT_TRAIN, KEPT_TRAIN, EXACT_COPY, EXACT_COPY, KEPT_TRAIN, EXACT_COPY]
    assert [decisions.kept_for(document) for document in (2, 3, 5)] == [(0, 1.0), (1, 1.0), (0, 1.0)]


def test_corpora_share_their_copies_and_one_that_is_not_deduplicated_neither_gives_nor_takes(tmp_path):
    texts = _texts(1, 3)
    every, decisions = decided(
        tmp_path,
        Corpus("raw", "none", [texts[0], texts[0]]),
        Corpus("a", "exact", texts),
        Corpus("b", "near", texts),
        Corpus("c", "exact", texts[:1]),
    )
    assert every == [KEPT_TRAIN] * 5 + [EXACT_COPY] * 4
    assert [decisions.kept_for(document)[0] for document in (5, 6, 7, 8)] == [2, 3, 4, 2]


def test_heldout_documents_come_first_and_stay_held_out(tmp_path):
    texts = _texts(2, 3)
    every, _ = decided(tmp_path, Corpus("a", "exact", [*texts, *texts], heldout=frozenset({0, 2, 4})), per_part=4)
    assert every == [KEPT_HELDOUT, KEPT_TRAIN, KEPT_HELDOUT] + [EXACT_COPY] * 3


@pytest.mark.parametrize("bytes_each", [1 << 14, 1 << 17])
def test_any_number_of_ranges_finds_the_same(tmp_path, monkeypatch, bytes_each):
    texts = _texts(3, 300)
    corpora = [Corpus("a", "exact", texts + texts[50:100]), Corpus("b", "near", texts[::2])]
    whole = Prepared(tmp_path / "whole", corpora, memory_mib=1)
    decisions = whole.deduplicate()
    monkeypatch.setattr(exact, "BYTES_PER_DOCUMENT", bytes_each)
    ranged = Prepared(tmp_path / "ranged", corpora, memory_mib=1)
    assert len(exact.Exact(ranged.plan, ranged.parts).items()) == -(-500 * bytes_each // (1 << 20)) > 5
    others = ranged.deduplicate()
    assert whole.decisions(decisions) == ranged.decisions(others) == [KEPT_TRAIN] * 300 + [EXACT_COPY] * 200
    assert decisions.report() == others.report()


def test_a_corpus_without_near_deduplication_loses_no_text_to_a_near_copy(tmp_path):
    writer = Writer(4, vocabulary=1000)
    words = writer.words(300)
    text, edited = prose(words), prose([*words[:-1], "changed"])
    every, decisions = decided(
        tmp_path, Corpus("n", "near", [text, edited, edited]), Corpus("e", "exact", [edited, edited, text])
    )
    assert every == [KEPT_TRAIN, NEAR_COPY, EXACT_COPY, KEPT_TRAIN, EXACT_COPY, EXACT_COPY]
    assert [decisions.kept_for(document)[0] for document in (1, 2, 4, 5)] == [0, 0, 3, 0]


def test_the_lines_tell_what_came_in_and_out(tmp_path):
    texts = _texts(5, 4)
    prepared = Prepared(tmp_path, [Corpus("a", "exact", [*texts, *texts])])
    prepared.deduplicate()
    assert [line.split()[1] for line in prepared.lines] == ["exact", "filter"]
    assert all("8 -> 4 documents" in line for line in prepared.lines)
