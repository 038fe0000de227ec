"""Every file in which evaluation sets are published gives all of its texts."""

import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.decontamination.evaluation_sets import files_of, texts_of
from pipeline.common.errors import UserError

SQUAD = {"version": "1.1", "data": [{"paragraphs": [{"context": "Ünited", "qas": [{"id": 7, "question": "Who?\nNow"}]}]}]}


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("squad.json", json.dumps(SQUAD), ["1.1", "Ünited", "Who?\nNow"]),
        ("pretty.json", json.dumps(SQUAD, indent=2), ["1.1", "Ünited", "Who?\nNow"]),
        ("nan.json", '{\n  "a": NaN,\n  "b": "text"\n}', ["text"]),
        ("lambada.jsonl", '{"text": "one"}\n\n{"text": "two", "score": NaN}\n', ["one", "two"]),
        ("glue.tsv", 'index\tsentence\n0\tsaid "so\n1\tdone\n', ["index", "sentence", "0", 'said "so', "1", "done"]),
        ("table.csv", 'a,b\n"one, two",three\n', ["a", "b", "one, two", "three"]),
        ("wiki.test.raw", " = Title = \n\n text \n", [" = Title = \n\n text \n"]),
        ("bom.txt", "\ufefftext", ["text"]),
    ],
)
@pytest.mark.parametrize(
    ("ending", "compress"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstandard.compress)]
)
def test_all_strings_of_a_file_are_texts(tmp_path, name, content, texts, ending, compress):
    path = tmp_path / (name + ending)
    path.write_bytes(compress(content.encode()))
    assert list(texts_of(path)) == texts


def test_all_columns_of_a_parquet_file_are_read(tmp_path):
    rows = [{"question": "Who?", "answers": {"text": ["a", "b"]}, "n": 1, "raw": b"bytes", "image": b"\xff\xd8"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(texts_of(tmp_path / "a.parquet")) == ["Who?", "a", "b", "bytes"]


def test_a_folder_gives_the_files_of_sets_in_it_and_others_are_refused(tmp_path):
    (tmp_path / "RTE").mkdir()
    for name in ("RTE/dev.tsv", "RTE/README.md", "b.jsonl.gz", "a.json"):
        (tmp_path / name).touch()
    assert files_of([str(tmp_path)], "k") == [tmp_path / name for name in ("RTE/dev.tsv", "a.json", "b.jsonl.gz")]
    assert files_of([f"{tmp_path}/*.json"], "k") == [tmp_path / "a.json"]
    with pytest.raises(UserError, match=r"^k: .*README\.md: unknown type of file; known are \.json, "):
        files_of([str(tmp_path / "RTE" / "README.md")], "k")
    with pytest.raises(UserError, match=r"^k: /nowhere: no such file"):
        files_of(["/nowhere"], "k")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"{"),
        ("a.jsonl", b'{"text": "one"}\n{"te'),
        ("a.txt", b"\xff\xfe"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00"),
        ("a.parquet", b"PAR1"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        list(texts_of(tmp_path / name))
