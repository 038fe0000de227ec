import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_prep.config import TextConfig
from data_prep.errors import UserError
from data_prep.readers import expand, read_documents

TEXTS = ["first document", "second\nwith two lines", "dritter, mit Umlauten äöü"]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def read(path: Path, **options: object) -> list[str]:
    return list(read_documents(path, TextConfig(files=["-"], **options), Counter()))


def test_every_format_gives_the_same_documents(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(LINES))
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"):
        assert read(tmp_path / name) == TEXTS, name


def test_zst_of_several_frames_and_small_chunks_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.readers._ZST_CHUNK", 7)
    half = len(LINES) // 2
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(LINES[:half]) + zstandard.compress(LINES[half:]))
    assert read(tmp_path / "a.jsonl.zst") == TEXTS


def test_txt_is_split_at_blank_lines_or_kept_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n\nthree\n")
    assert [text.strip() for text in read(path)] == ["one\ntwo", "three"]
    assert read(path, txt_documents="file") == ["one\ntwo\n\n\nthree\n"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.jsonl.zst", zstandard.compress(LINES)[:-9]),
        ("no.jsonl.zst", b"this is not zstandard"),
        ("broken.jsonl.gz", gzip.compress(LINES)[:-9]),
        ("no.parquet", b"PAR1 this is not parquet"),
        ("latin1.txt", "Käse".encode("latin-1")),
        ("what.pdf", b"%PDF"),
    ],
)
def test_a_damaged_or_unknown_file_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read(tmp_path / name)


def test_bad_lines_are_counted_and_refused_past_the_limit_with_their_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\nnot json\n{"body": "x"}\n{"text": 3}\n')
    dropped: Counter[str] = Counter()
    assert list(read_documents(path, TextConfig(files=["-"], max_bad_lines=3), dropped)) == ["good"]
    assert dropped == {"bad line": 3}
    with pytest.raises(UserError, match=r"a\.jsonl: line 4: no text under 'text'"):
        read(path, max_bad_lines=2)


def test_a_missing_or_empty_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.jsonl: no such file"):
        expand([str(tmp_path / "nothing.jsonl")])
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=r"empty\.txt: the file is empty"):
        expand([str(tmp_path / "*.txt")])
