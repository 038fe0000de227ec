import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.jobs.job import Facts, Job
from data_prep.jobs.workers import Alone
from data_prep.plans.drafting import draft_plan
from data_prep.plans.plan import Plan
from data_prep.stages.clean import Clean
from data_prep.text.document_parts import FOLDER, DocumentParts
from data_prep.text.rejects import BAD_FILE, BAD_RECORD, TOO_SHORT
from data_prep.text.slice_writer import text_hash
from pipeline.common.errors import UserError
from tests.benchmarks.memory import Watched
from tests.data_prep.preparing import preparation, write_jsonl
from tests.data_prep.prose import made_up_texts

TEXTS = made_up_texts(3000, words=300)


def plan_of(*corpora: Mapping[str, Any], part_mib: int = 1) -> Plan:
    return draft_plan(preparation("-", *corpora, part_mib=part_mib))


def clean(root: Path, *corpora: Mapping[str, Any], part_mib: int = 1) -> tuple[list[Facts], DocumentParts]:
    plan = plan_of(*corpora, part_mib=part_mib)
    stage = Clean(plan, {item.name: item.modified for item in plan.inputs})
    facts = Job(root, "digest", Alone()).run(stage)
    return facts, DocumentParts(root, stage.parts(facts))


def texts_of(parts: DocumentParts) -> list[str]:
    return [text for part in parts for _, texts in parts.texts(part) for text in texts]


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory) -> tuple[Path, list[Facts], DocumentParts]:
    root = tmp_path_factory.mktemp("cleaned")
    return root, *clean(root / "out", {"files": [write_jsonl(root / "a.jsonl", TEXTS)], "heldout_fraction": 0.1})


def test_documents_come_out_as_they_went_in_and_in_order(cleaned):
    assert texts_of(cleaned[2]) == TEXTS


def test_slices_and_parts_are_bounded_and_numbered_through(cleaned):
    _, facts, parts = cleaned
    assert len(facts) > 3
    assert max(part.bytes for part in parts) < (1 << 20) + 2000
    assert [part.index for part in parts] == list(range(len(parts.all)))
    assert [part.first for part in parts] == np.cumsum([0, *(part.documents for part in parts)])[:-1].tolist()
    assert sum(part.characters for part in parts) == sum(map(len, TEXTS))
    assert sum(part.bytes for part in parts) == sum(len(text.encode()) for text in TEXTS)
    assert parts.documents == len(TEXTS)


def test_row_groups_hold_about_a_megabyte(cleaned, tmp_path):
    _, parts = clean(tmp_path, {"files": [str(cleaned[0] / "a.jsonl")]}, part_mib=64)
    (part,) = parts
    metadata = pq.ParquetFile(tmp_path / FOLDER / f"{part.name}.parquet").metadata
    assert metadata.num_row_groups == pytest.approx(part.bytes / (1 << 20), abs=1)
    starts = [row for row, _ in parts.texts(part)]
    assert len(starts) == metadata.num_row_groups
    for row in (0, starts[1] - 1, starts[1], len(TEXTS) - 1):
        assert parts.document(row).text == TEXTS[row]
    wanted = np.zeros(len(TEXTS), dtype=bool)
    wanted[[5, starts[2], 2999]] = True
    assert list(parts.chosen(part, wanted)) == [(row, TEXTS[row]) for row in (5, starts[2], 2999)]


def test_hashes_are_sorted_and_point_at_their_documents(cleaned):
    parts = cleaned[2]
    for part in parts:
        exact = parts.exact(part)
        pairs = list(zip(exact["high"].tolist(), exact["low"].tolist(), strict=True))
        assert pairs == sorted(pairs)
        assert sorted(exact["row"].tolist()) == list(range(part.documents))
        for high, low, row in exact[:20].tolist():
            assert text_hash(TEXTS[part.first + row]) == high.to_bytes(8, "little") + low.to_bytes(8, "little")


def test_equal_hashes_are_in_the_order_of_their_documents(tmp_path):
    _, parts = clean(tmp_path, {"files": [write_jsonl(tmp_path / "a.jsonl", ["same"] * 50)]})
    assert parts.exact(parts.all[0])["row"].tolist() == list(range(50))


def test_about_the_asked_share_is_held_out_by_the_text_alone(cleaned, tmp_path):
    parts = cleaned[2]
    heldout = np.concatenate([parts.heldout(part) for part in parts])
    # 3,000 draws at 10 %: five deviations are 82.
    assert abs(heldout.sum() - 300) < 82
    turned = write_jsonl(tmp_path / "b.jsonl", [f" {text.upper()}" for text in reversed(TEXTS)])
    _, others = clean(tmp_path / "out", {"files": [turned], "heldout_fraction": 0.1})
    assert np.concatenate([others.heldout(part) for part in others]).tolist() == heldout[::-1].tolist()


def test_two_runs_leave_the_same_bytes(cleaned, tmp_path):
    root = cleaned[0]
    clean(tmp_path, {"files": [str(root / "a.jsonl")], "heldout_fraction": 0.1})
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert len(files) >= 12
    assert files == sorted(path.relative_to(root / "out") for path in (root / "out").rglob("*.*"))
    for path in files:
        assert (tmp_path / path).read_bytes() == (root / "out" / path).read_bytes(), path


def test_a_slice_that_holds_more_than_a_part_leaves_several(cleaned, tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((cleaned[0] / "a.jsonl").read_bytes()))
    facts, parts = clean(tmp_path, {"files": [str(tmp_path / "a.jsonl.gz")]})
    assert len(facts) == 1
    assert [part.name for part in parts] == [f"00000-{number:03d}" for number in range(len(parts.all))]
    assert len(parts.all) > 2
    assert all(part.bytes >= 1 << 20 for part in parts.all[:-1])
    assert texts_of(parts) == TEXTS


def test_a_corpus_without_deduplication_keeps_no_hashes(tmp_path):
    clean(tmp_path, {"files": [write_jsonl(tmp_path / "a.jsonl", TEXTS[:5])], "dedupe": "none"})
    names = [path.name for path in sorted((tmp_path / FOLDER).glob("*.*")) if path.suffix != ".json"]
    assert names == ["00000-000.heldout.npy", "00000-000.parquet"]


def test_heldout_files_come_first_and_whole_and_nothing_else_is_held_out(tmp_path):
    files = [write_jsonl(tmp_path / name, texts) for name, texts in (("a.jsonl", TEXTS[:10]), ("b.jsonl", TEXTS[10:15]))]
    other = write_jsonl(tmp_path / "other.jsonl", TEXTS[15:20])
    one = {"name": "one", "files": [str(tmp_path / "?.jsonl")], "heldout_files": [files[1]], "heldout_fraction": 0.9}
    _, parts = clean(tmp_path / "out", one, {"name": "two", "files": [other], "heldout_fraction": 0})
    assert texts_of(parts) == TEXTS[10:15] + TEXTS[:10] + TEXTS[15:20]
    assert [(part.corpus, part.index, part.first) for part in parts] == [("one", 0, 0), ("one", 1, 5), ("two", 0, 15)]
    assert [parts.heldout(part).tolist() for part in parts] == [[True] * 5, [False] * 10, [False] * 5]
    assert parts.holding(np.array([0, 4, 5, 14, 15, 19])).tolist() == [0, 0, 1, 1, 2, 2]


def test_every_document_that_went_in_came_out_or_is_counted(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "long enough"}\n{"text": "short"}\nbad\n{"text": "also short"}\n')
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "long enough, \\u00e4"}\n')[:-4])
    facts, parts = clean(tmp_path, {"files": [str(tmp_path / "?.jsonl*")], "min_length": 11, "bad_files": "skip"})
    counts = facts[0].counts
    assert counts["dropped"] == {TOO_SHORT: 2, BAD_RECORD: 1, BAD_FILE: 1}
    assert counts["documents_in"] == 5 == counts["documents_out"] + 3
    assert counts["bytes_in"] == len("long enough") + len("short") + len("also short") + len("long enough, ä".encode())
    assert counts["bytes_out"] == len("long enough") + len("long enough, ä".encode())
    assert counts["lengths"] == {"4": 2}
    assert counts["examples"][TOO_SHORT] == [f"{tmp_path}/a.jsonl: line {line}" for line in (2, 4)]
    assert texts_of(parts) == ["long enough", "long enough, ä"]


def test_a_slice_with_nothing_left_leaves_no_part(tmp_path):
    facts, parts = clean(tmp_path, {"files": [write_jsonl(tmp_path / "a.jsonl", ["", " ", "\x00"])]})
    assert facts[0].counts["documents_in"] == 3 and facts[0].outputs == {}
    assert texts_of(parts) == [] and parts.documents == 0


def test_where_all_files_are_bad_all_are_counted(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.jsonl.zst").write_bytes(b"damaged")
    (tmp_path / "d.txt").touch()
    facts, parts = clean(tmp_path, {"files": [str(tmp_path / "*")], "bad_files": "skip"})
    assert sum(fact.counts["dropped"][BAD_FILE] for fact in facts) == 4
    assert parts.documents == 0


def test_a_bad_file_leaves_nothing_half_written(cleaned, tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((cleaned[0] / "a.jsonl").read_bytes())[:-4])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: the compressed file breaks off"):
        clean(tmp_path / "out", {"files": [str(tmp_path / "a.jsonl.gz")]})
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_many_small_files_are_read_in_few_slices(tmp_path):
    for number, text in enumerate(TEXTS[:1000]):
        (tmp_path / f"{number:04d}.txt").write_text(text, encoding="utf-8")
    corpus = {"files": [str(tmp_path / "*.txt")], "txt_documents": "file"}
    assert len(plan_of(corpus).slices) == 2  # 1.6 MB in slices of 1 MiB
    assert texts_of(clean(tmp_path / "out", corpus)[1]) == TEXTS[:1000]


@pytest.mark.full
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_document_of_200_megabytes_fits_into_memory(tmp_path, name, kept):
    sentence = "A word is a word is a word, and this is one sentence of many more.\n"
    content = (sentence * (200_000_000 // len(sentence))).encode()
    if name == "a.txt":
        content += b"\nnext\n"
    else:
        content = b'{"text": "' + content.replace(b"\n", b"\\n") + b'"}\n{"text": "next"}\n'
    compress = {"gz": lambda content: gzip.compress(content, 1), "zst": zstandard.compress}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(compress(content))
    corpus = {"files": [str(tmp_path / name)], "max_characters": 300_000_000 if kept else 20_000_000}
    del content
    with Watched() as watched:
        facts, parts = clean(tmp_path / "out", corpus, part_mib=16)
    too_long = sum(fact.counts["dropped"].get("too long", 0) for fact in facts)
    assert (parts.documents, too_long) == ((2, 0) if kept else (1, 1))
    assert watched.peak < 1.3e9
