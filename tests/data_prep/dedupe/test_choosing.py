from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_prep.dedupe import choosing, cluster
from data_prep.dedupe.cluster import Cluster
from data_prep.dedupe.filtering import EXACT_COPY, KEPT_TRAIN
from data_prep.dedupe.kernels import choose
from data_prep.dedupe.minhash import Signer
from data_prep.dedupe.records import COPY, begins, table_of
from data_prep.jobs.job import Item, Outputs
from tests.benchmarks.memory import Watched
from tests.data_prep.dedupe.planted import Writer, plant, prose
from tests.data_prep.dedupe.prepared import Corpus, Prepared


def _windows(count: int) -> list[str]:
    """Windows that slide over a text: one cluster, of which every seventh or so stays."""
    words = Writer(8, vocabulary=5000).words(400 + 16 * count)
    return [prose(words[start : start + 400]) for start in range(0, 16 * count, 16)]


def _members(root: Path) -> np.ndarray:
    return np.load(root / "work" / "cluster" / "members.npy")


@pytest.mark.slow
def test_pieces_are_cut_between_clusters_and_shared_out(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "BATCH", 5)
    texts = plant(300).texts
    others = [Corpus("exact", "exact", texts[:100]), Corpus("none", "none", texts[:50])]
    corpora = [Corpus("a", "near", [*texts, *_windows(12), *plant(200, 1).texts]), *others]
    alone, together = (Prepared(tmp_path / name, corpora, per_part=40) for name in ("alone", "together"))
    alone.deduplicate()
    together.deduplicate(workers=3)
    assert alone.files() == together.files()
    members, cuts = _members(tmp_path / "alone"), np.load(tmp_path / "alone" / "work" / "cluster" / "cuts.npy")
    assert (cuts[0], cuts[-1]) == (0, len(members))
    starts = np.append(np.flatnonzero(begins(members["cluster"])), len(members))
    assert np.isin(cuts, starts).all()
    assert np.array_equal(members, members[np.lexsort((members["document"], members["cluster"]))])
    large = np.flatnonzero(np.diff(cuts) > 5)
    assert len(cuts) > 6
    # Only a cluster is a batch above the limit: that of the windows.
    assert np.diff(cuts)[large].tolist() == [12]
    assert len(set(members["cluster"][cuts[large[0]] : cuts[large[0] + 1]].tolist())) == 1


@pytest.mark.parametrize(("memory_mib", "batch"), [(1, 1024), (8, 8192), (1024, cluster.BATCH)])
def test_a_batchs_signatures_take_half_of_the_memory_at_most(tmp_path, memory_mib, batch):
    prepared = Prepared(tmp_path, [Corpus("a", "near", ["one"])], memory_mib=memory_mib)
    assert Cluster(prepared.plan, prepared.parts, SimpleNamespace()).batch == batch


def test_without_similar_documents_there_is_no_piece(tmp_path):
    prepared = Prepared(tmp_path, [Corpus("a", "near", [prose(Writer(1).words(50))])])
    assert prepared.decisions(prepared.deduplicate()) == [KEPT_TRAIN]
    assert len(_members(tmp_path)) == 0
    assert not list((tmp_path / "work").glob("choose/*"))


def _chosen(names: str, representatives: int, batch: int = 100) -> list[int]:
    """kept of each member of one cluster, of which those with the same letter are similar."""
    signatures = np.array([[ord(name)] * 8 for name in names], np.uint32)
    documents = np.arange(len(names), dtype=np.int64) + 10
    state = np.empty(representatives, np.int64), np.empty((representatives, 8), np.uint32), np.empty(representatives, np.int64)
    kept, agree = np.empty(len(names), np.int64), np.empty(len(names), np.int64)
    count = 0
    for start in range(0, len(names), batch):
        part = slice(start, start + batch)
        starts = np.zeros(len(documents[part]), bool)
        starts[0] = start == 0
        count = choose(signatures[part], documents[part], starts, 8, *state, count, kept[part], agree[part])
    assert ((agree > 0) == (kept >= 0)).all()
    return kept.tolist()


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_a_document_is_compared_with_those_that_stayed_or_were_found_last(batch):
    assert _chosen("abcabc", 3, batch) == [-1, -1, -1, 10, 11, 12]
    assert _chosen("abcacb", 2, batch) == [-1, -1, -1, -1, 12, -1]  # c takes the place of a, and a that of b
    assert _chosen("abacab", 2, batch) == [-1, -1, 10, -1, 10, -1]  # a was found after b: c takes b's place


def test_of_a_cluster_with_many_that_stay_every_copy_has_one_that_it_is_similar_to(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "REPRESENTATIVES", 2)
    texts = _windows(60)
    order = np.random.default_rng(0).permutation(len(texts))
    prepared = Prepared(tmp_path, [Corpus("a", "near", [texts[place] for place in order])])
    decisions = prepared.deduplicate()
    every, dropped = prepared.decisions(decisions), prepared.dropped(decisions)
    members = _members(tmp_path)
    assert len(members) == len(texts) and len(set(members["cluster"].tolist())) == 1
    assert every[0] == KEPT_TRAIN and dropped
    signatures = Signer(128, 5)(prepared.texts)[0]
    for document in dropped:
        kept, _ = decisions.kept_for(document)
        assert every[kept] < EXACT_COPY
        assert (signatures[document] == signatures[kept]).mean() >= 0.8


def test_components_take_no_more_memory_than_they_say(tmp_path):
    documents = 1_000_000
    _components(tmp_path, 1000)
    with Watched() as watched:
        facts = _components(tmp_path, documents)
    assert facts == {"documents_out": documents, "clusters": documents // 2, "largest": 2}
    # 48 bytes a document, 40 a pair of a range; 2 MiB for what the allocator and the watching thread take.
    assert watched.peak <= 48 * documents + 40 * 10_000 + (2 << 20)


def _components(root: Path, documents: int) -> dict[str, int]:
    """Pairs in ranges of 10,000, in random order."""
    order = np.random.default_rng(0).permutation(documents).astype(np.int32)

    def edges():
        for start in range(0, documents, 20_000):
            pairs = order[start : start + 20_000].reshape(-1, 2)
            yield table_of(COPY, document=pairs.max(axis=1), kept=pairs.min(axis=1), similarity=0)

    dedupe = SimpleNamespace(memory_mib=64, permutations=128)
    plan = SimpleNamespace(config=SimpleNamespace(dedupe=dedupe))
    return Cluster(plan, SimpleNamespace(root=root), SimpleNamespace(edges=edges)).work(
        Item("all", 1), Outputs(root), lambda _: None
    )
