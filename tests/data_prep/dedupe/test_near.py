from pathlib import Path

import numpy as np
import pytest

from data_prep.dedupe import cluster, exact, neighbours
from data_prep.dedupe.filtering import EXACT_COPY, KEPT_HELDOUT, KEPT_TRAIN, NEAR_COPY
from data_prep.dedupe.groups import grouped
from data_prep.dedupe.minhash import Signer
from data_prep.text.document_parts import DocumentPart
from tests.data_prep.dedupe.planted import Writer, dropped_by_datasketch, dropped_by_ours, false_drops, is_found, plant, prose
from tests.data_prep.dedupe.prepared import Corpus, Prepared, decided
from tests.data_prep.preparing import modified


def _estimated(*texts: str) -> float:
    left, right = Signer(128, 5)(texts)[0]
    return float((left == right).mean())


def _chain() -> list[str]:
    """Three texts of which neighbours are similar and the ends are not."""
    words = Writer(7, vocabulary=5000).words(600)
    return [prose(words[start : start + 400]) for start in (0, 32, 64)]


def _mixed(seed: int = 0) -> list[Corpus]:
    """Corpora of each kind with copies within and between them, and documents without words."""
    texts = plant(500, seed).texts
    again = plant(300, seed).texts
    return [
        Corpus("near", "near", [*texts, "?!", "...", "one word"], heldout=frozenset(range(0, 500, 7))),
        Corpus("exact", "exact", texts[:100]),
        Corpus("none", "none", texts[:50]),
        Corpus("other", "near", [*_chain(), *again, *texts[200:300]], heldout=frozenset(range(10))),
    ]


def test_near_copies_are_dropped_for_the_smallest_document(tmp_path):
    writer = Writer(0)
    words = writer.words(400)
    edited, more_edited = (prose(writer.edited(words, share)) for share in (0.005, 0.01))
    texts = [prose(writer.words(400)), prose(words), more_edited, prose(writer.words(300)), prose(words).lower(), edited]
    every, decisions = decided(tmp_path, Corpus("a", "near", texts, heldout=frozenset({1})), per_part=2)
    assert every == [KEPT_TRAIN, KEPT_HELDOUT, NEAR_COPY, KEPT_TRAIN, EXACT_COPY, NEAR_COPY]
    for document in (2, 5):
        kept, similarity = decisions.kept_for(document)
        assert kept == 1
        assert similarity == pytest.approx(_estimated(texts[1], texts[document]))


def test_the_far_end_of_a_chain_stays(tmp_path):
    texts = _chain()
    assert min(_estimated(texts[0], texts[1]), _estimated(texts[1], texts[2])) >= 0.8 > _estimated(texts[0], texts[2])
    every, _ = decided(tmp_path, Corpus("a", "near", texts))
    assert every == [KEPT_TRAIN, NEAR_COPY, KEPT_TRAIN]


def test_a_member_unlike_its_buckets_first_is_compared_with_the_others(tmp_path):
    # Bands of one row: where all three share one, the first star, from the stranger, finds nothing.
    writer = Writer(5)
    words = writer.words(500)
    texts = [prose([*words[:330], *writer.words(170)]), prose(words), prose(writer.edited(words, 0.01))]
    every, _ = decided(tmp_path, Corpus("a", "near", texts), bands=128)
    assert every == [KEPT_TRAIN, KEPT_TRAIN, NEAR_COPY]
    signatures = Signer(128, 5)(texts)[0]
    shared = np.flatnonzero((signatures == signatures[0]).all(axis=0))
    assert len(shared)
    for band in shared:
        assert _edges(tmp_path, f"{band:03d}-*") == [(1, 2)]


def _edges(root: Path, items: str = "*") -> list[tuple[int, int]]:
    paths = sorted((root / "work" / "neighbours").glob(f"{items}.npy"))
    return [(int(edge["kept"]), int(edge["document"])) for path in paths for edge in np.load(path)]


def test_what_is_dropped_has_a_similar_one_that_stays_and_what_stays_in_a_cluster_has_none(tmp_path):
    prepared = Prepared(tmp_path, _mixed(), threshold=0.7)
    decisions = prepared.deduplicate()
    every, dropped = prepared.decisions(decisions), prepared.dropped(decisions)
    assert {EXACT_COPY, NEAR_COPY} <= set(every)
    signatures = Signer(128, 5)(prepared.texts)[0]
    for document in dropped:
        kept, similarity = decisions.kept_for(document)
        assert kept < document
        assert every[kept] in (KEPT_TRAIN, KEPT_HELDOUT)
        assert similarity == pytest.approx(float((signatures[document] == signatures[kept]).mean()))
        assert similarity >= 0.7
    pairs = _edges(tmp_path)
    assert pairs
    assert not [pair for pair in pairs if every[pair[0]] < EXACT_COPY and every[pair[1]] < EXACT_COPY]


def test_a_corpus_that_is_not_deduplicated_keeps_everything_and_an_exact_one_its_near_copies(tmp_path):
    writer = Writer(6)
    words = writer.words(400)
    texts = [prose(words), prose(writer.edited(words, 0.005)), prose(words)]
    corpora = [Corpus(kind, kind, texts, heldout=frozenset({1})) for kind in ("none", "exact")]
    prepared = Prepared(tmp_path, corpora)
    decisions = prepared.decisions(prepared.deduplicate())
    assert decisions == [KEPT_TRAIN, KEPT_HELDOUT, KEPT_TRAIN, KEPT_TRAIN, KEPT_HELDOUT, EXACT_COPY]


@pytest.mark.parametrize("heldout", [frozenset(), frozenset({0})], ids=["trained on", "held out"])
def test_near_copies_go_although_what_they_copy_equals_a_document_of_an_exact_corpus(tmp_path, heldout):
    words = Writer(6).words(300)
    text, edited = prose(words), prose([*words[:150], "changed", *words[151:]])
    corpora = [Corpus("e", "exact", [text], heldout), Corpus("n", "near", [text, edited, text, edited])]
    every, decisions = decided(tmp_path, *corpora, Corpus("late", "exact", [text, edited]))
    first = KEPT_HELDOUT if heldout else KEPT_TRAIN
    # An exact corpus keeps what is a near copy, and what is an exact copy of that.
    assert every == [first, EXACT_COPY, NEAR_COPY, EXACT_COPY, EXACT_COPY, EXACT_COPY, KEPT_TRAIN]
    assert [decisions.kept_for(document)[0] for document in range(7)] == [0, 0, 0, 0, 0, 0, 6]
    similarity = pytest.approx(_estimated(text, edited))
    assert [decisions.kept_for(document)[1] for document in range(1, 5)] == [1, similarity, 1, similarity]
    near = [example for example in decisions.report() if example["kind"] == "near"]
    assert [(example["document"], example["kept"]) for example in near] == [(2, 0)]


def test_a_near_copy_that_equals_a_document_of_an_exact_corpus_goes_for_that_one(tmp_path):
    words = Writer(6).words(300)
    text, edited = prose(words), prose([*words[:150], "changed", *words[151:]])
    every, decisions = decided(tmp_path, Corpus("e", "exact", [text]), Corpus("n", "near", [edited, text, edited]))
    assert every == [KEPT_TRAIN, KEPT_TRAIN, EXACT_COPY, EXACT_COPY]
    assert [decisions.kept_for(document) for document in (2, 3)] == [(0, 1.0), (1, 1.0)]


def test_documents_without_words_stay(tmp_path):
    every, _ = decided(tmp_path, Corpus("a", "near", ["!", "?", "...", "!"]))
    assert every == [KEPT_TRAIN] * 3 + [EXACT_COPY]


@pytest.mark.slow
def test_any_memory_gives_the_same(tmp_path, monkeypatch):
    whole = Prepared(tmp_path / "whole", _mixed(), memory_mib=64)
    decisions = whole.deduplicate()
    for module, name in ((exact, "BYTES_PER_DOCUMENT"), (neighbours, "BYTES_PER_RECORD")):
        monkeypatch.setattr(module, name, 3000)
    small = Prepared(tmp_path / "small", _mixed(), memory_mib=1)
    others = small.deduplicate()
    assert len(small.files()) > len(whole.files()) + 32  # more ranges
    assert whole.decisions(decisions) == small.decisions(others)
    assert decisions.report() == others.report()


@pytest.mark.slow
def test_any_groups_of_parts_give_the_same(tmp_path, monkeypatch):
    alone = Prepared(tmp_path / "alone", _mixed())
    expected = alone.decisions(alone.deduplicate())
    monkeypatch.setattr("data_prep.dedupe.groups.GROUPS", 3)
    together = Prepared(tmp_path / "together", _mixed())
    decisions = together.deduplicate(workers=2)
    assert together.decisions(decisions) == expected
    assert _edges(together.root) == _edges(alone.root)
    assert all(decisions.kept_for(document)[0] in range(document) for document in together.dropped(decisions))
    assert len(together.parts.all) > 10
    for stage in ("minhash", "filter"):
        assert len(list((together.root / "work" / stage).glob("*.json"))) == 3


def test_a_group_of_parts_is_no_larger_than_memory_takes(monkeypatch):
    monkeypatch.setattr("data_prep.dedupe.groups.GROUPS", 2)
    sizes = [4, 4, 4, 9, 1, 1, 1, 1]
    parts = [
        DocumentPart(f"{number:05d}-000", "text", number, sum(sizes[:number]), size, 0, 0) for number, size in enumerate(sizes)
    ]
    groups = grouped(parts, 8)
    assert [[part.documents for part in group.parts] for group in groups] == [[4, 4], [4], [9], [1, 1, 1, 1]]
    assert [(group.first, group.stop, group.documents) for group in groups] == [(0, 8, 8), (8, 12, 4), (12, 21, 9), (21, 25, 4)]
    assert grouped([], 8) == []


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_clusters_larger_than_a_batch_are_chosen_from_as_if_whole(tmp_path, monkeypatch, batch):
    words = Writer(8, vocabulary=5000).words(900)
    sliding = [prose(words[start : start + 400]) for start in range(0, 480, 16)]
    corpora = [Corpus("a", "near", [*plant(100, 3).texts, *sliding, *_chain()])]
    whole = Prepared(tmp_path / "whole", corpora)
    decisions = whole.deduplicate()
    monkeypatch.setattr(cluster, "BATCH", batch)
    cut = Prepared(tmp_path / "cut", corpora)
    others = cut.deduplicate()
    assert [decisions.kept_for(document) for document in range(133)] == [others.kept_for(document) for document in range(133)]
    # Thirty windows that slide: one cluster, larger than any batch, of which more than one stays.
    assert 3 < sum(decision == KEPT_TRAIN for decision in whole.decisions(decisions)[100:130]) < 20


@pytest.mark.parametrize("batch", [2, 100])
def test_documents_of_different_clusters_are_not_compared(tmp_path, monkeypatch, batch):
    # One band of all rows: only texts of equal words meet, whatever else is similar.
    writer = Writer(9)
    words = writer.words(400)
    texts = [prose(words), prose(writer.edited(words, 0.005))]
    assert 0.8 < _estimated(*texts) < 1
    monkeypatch.setattr(cluster, "BATCH", batch)
    every, _ = decided(tmp_path, Corpus("a", "near", texts + [f"{text} !" for text in texts]), bands=1)
    assert every == [KEPT_TRAIN, KEPT_TRAIN, NEAR_COPY, NEAR_COPY]


def test_a_second_run_does_nothing_anew(tmp_path):
    prepared = Prepared(tmp_path, _mixed())
    report = prepared.deduplicate().report()
    times = modified(tmp_path / "work")
    assert prepared.deduplicate().report() == report and modified(tmp_path / "work") == times


def test_the_report_shows_the_first_of_each_kind(tmp_path):
    prepared = Prepared(tmp_path, _mixed(), examples=4)
    decisions = prepared.deduplicate()
    report = decisions.report()
    every = prepared.decisions(decisions)
    for kind, decision in (("exact", EXACT_COPY), ("near", NEAR_COPY)):
        shown = [example for example in report if example["kind"] == kind]
        assert [example["document"] for example in shown] == [place for place, one in enumerate(every) if one == decision][:4]
        for example in shown:
            assert example["text"] == prepared.texts[example["document"]][:200]
            assert example["kept_text"] == prepared.texts[example["kept"]][:200]
            assert example["similarity"] >= 0.8


@pytest.mark.parametrize("documents", [3000, pytest.param(50_000, marks=pytest.mark.full)])
def test_planted_duplicates_are_found(tmp_path, documents):
    pytest.importorskip("datasketch")
    planted = plant(documents, seed=1)
    ours, theirs = dropped_by_ours(planted, tmp_path), dropped_by_datasketch(planted)
    close = [pair for pair in planted.pairs if pair.similarity >= 0.9]
    found = sum(is_found(pair, ours) for pair in close)
    assert found >= 0.99 * len(close)
    assert found >= sum(is_found(pair, theirs) for pair in close)
    assert false_drops(planted, ours) <= 0.001 * int((planted.nearest <= 0.7).sum())
    assert all(is_found(pair, ours) for pair in planted.pairs if pair.edit == 0)
