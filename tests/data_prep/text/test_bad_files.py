"""Files and records that are damaged, too long or of another kind than their names say."""

import bz2
import errno
import gzip
import json
import lzma
import random
import re
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_prep.steps.normalize import clean
from data_prep.text.readers import ranges_of_file, read_range
from data_prep.text.rejects import BAD_FILE, BAD_RECORD, TOO_LONG, Rejects
from pipeline.common.errors import UserError
from tests.data_prep.prose import made_up_texts
from tests.data_prep.text.reading import (
    COMPRESSED,
    LINES,
    TEXTS,
    config,
    looking_back,
    parquet,
    read,
    read_counted,
    texts_of,
    write,
)

ROOT = Path(__file__).parents[3]
DAMAGED = {
    "breaks_off.jsonl.zst": (zstandard.compress(LINES)[:-9], "the compressed file breaks off"),
    "no.jsonl.zst": (b"this is not zstandard", "the file is damaged"),
    "behind.jsonl.zst": (zstandard.compress(LINES) + b"garbage", "the file is damaged"),
    "breaks_off.txt.bz2": (bz2.compress(LINES)[:-9], "the compressed file breaks off"),
    "no.ndjson.bz2": (b"this is not bzip2", "the file is damaged"),
    "behind.json.bz2": (bz2.compress(LINES) + b"garbage", "the file is damaged"),
    "breaks_off.jsonl.xz": (lzma.compress(LINES)[:-9], "the compressed file breaks off"),
    "no.txt.xz": (b"this is not xz", "the file is damaged"),
    "behind.jsonl.xz": (lzma.compress(LINES) + b"garbage", "the file is damaged"),
    "behind.txt.gz": (gzip.compress(LINES) + b"garbage", "the file is damaged"),
    "breaks_off.json.zst": (zstandard.compress(LINES)[:-9], "the compressed file breaks off"),
    "breaks_off.json": (b'[{"text": "a"}, {"te', "neither a JSON record a line nor one JSON array or object"),
    "gzip.jsonl": (gzip.compress(LINES), r"is gzip by its first bytes; give it a name that ends in \.gz"),
    "zstd.txt": (zstandard.compress(LINES), r"is zstd by its first bytes; give it a name that ends in \.zst"),
    "bzip2.json": (bz2.compress(LINES), r"is bzip2 by its first bytes; give it a name that ends in \.bz2"),
    "xz.ndjson": (lzma.compress(LINES), r"is xz by its first bytes; give it a name that ends in \.xz"),
    "parquet.jsonl": (parquet({"text": TEXTS}), r"is parquet by its first bytes; give it a name that ends in \.parquet"),
    "breaks_off.jsonl.gz": (gzip.compress(LINES)[:-9], "the compressed file breaks off"),
    "no.jsonl.gz": (b"this is not gzip", "the file is damaged"),
    "no.parquet": (b"PAR1 this is not parquet", "not readable as parquet"),
    "empty.txt": (b"", "the file is empty"),
    "empty.jsonl": (b"", "the file is empty"),
    "empty.jsonl.gz": (b"", "the file is empty"),
    "empty.parquet": (b"", "the file is empty"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_or_empty_file_is_refused_by_name_or_counted(tmp_path, name):
    content, message = DAMAGED[name]
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=f"{name}: {message}.*; correct it, or set bad_files: skip$"):
        read(path)
    _, rejects = read_counted(path, bad_files="skip")
    assert rejects.counts == {BAD_FILE: 1}
    assert re.search(f"{name}: {message}", rejects.examples[BAD_FILE][0])


def printed(program: str, path: Path) -> str:
    words = [sys.executable, "-c", program, path]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=60, cwd=ROOT).stdout


WITHOUT_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from data_prep.settings import CorpusConfig
from data_prep.steps.normalize import clean
from data_prep.text.input_ranges import InputRange
from data_prep.text.readers import ranges_of_file, read_range
from data_prep.text.rejects import Rejects

corpus, path = CorpusConfig(files=["-"], bad_files="skip"), Path(sys.argv[1])
(range,) = ranges_of_file(path, corpus, 1 << 20)
len(list(read_range(range, corpus, Rejects())))  # what is imported late is here now
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (os.open(os.devnull, os.O_RDONLY) + 1, limit[1]))
for attempt in (lambda: ranges_of_file(path, corpus, 1 << 20), lambda: list(read_range(range, corpus, Rejects()))):
    try:
        print(attempt())
    except OSError as error:
        print(error.errno, error.filename)
"""


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.txt"])
def test_an_error_of_the_system_is_no_damage_even_where_bad_files_are_skipped(tmp_path, name):
    path = tmp_path / name
    compress = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    write(path, compress(LINES))
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), path)
    planned, read = printed(WITHOUT_DESCRIPTORS, path).splitlines()
    assert read == f"{errno.EMFILE} {path}"
    if path.suffix == ".parquet":
        assert planned == read


WITHOUT_MEMORY = """
import resource, sys
from pathlib import Path
from data_prep.settings import CorpusConfig
from data_prep.text.readers import ranges_of_file, read_range
from data_prep.text.rejects import Rejects

corpus = CorpusConfig(files=["-"], bad_files="skip")
(range,) = ranges_of_file(Path(sys.argv[1]), corpus, 1 << 20)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
try:
    print(list(read_range(range, corpus, Rejects())))
except MemoryError as error:
    print(error)
"""


def test_a_window_that_there_is_no_memory_for_is_no_damage(tmp_path):
    path = write(tmp_path / "a.jsonl.zst", looking_back(31))
    assert "not enough memory" in printed(WITHOUT_MEMORY, path)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), pyarrow.ArrowMemoryError("malloc failed")])
def test_an_error_of_the_system_within_a_file_is_raised(tmp_path, monkeypatch, error):
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "a.parquet")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", fail)
    with pytest.raises(type(error)) as raised:
        read(tmp_path / "a.parquet", bad_files="skip")
    assert raised.value is error


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.jsonl.bz2", "a.jsonl.xz"])
def test_what_stands_before_the_damage_is_kept(tmp_path, name):
    texts = made_up_texts(2000)
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    compress = COMPRESSED | {".bz2": partial(bz2.compress, compresslevel=1), ".zst": zstandard.ZstdCompressor(level=1).compress}
    compress = compress[Path(name).suffix]
    whole = compress(content)
    # zstandard decompresses blocks of up to 128 KiB, bzip2 of 100 kB, here 205 documents.
    for cut, least in ((len(whole) - 3, 2000 - 210), (len(whole) // 2, 1000 - 210)):
        kept = read(write(tmp_path / name, whole[:cut]), bad_files="skip")
        assert len(kept) >= least
        assert kept == texts[: len(kept)]


def test_row_groups_before_a_damaged_one_are_kept(tmp_path):
    path = tmp_path / "a.parquet"
    texts = made_up_texts(60)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=20, compression="zstd")
    column = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size // 2
    content[middle : middle + 40] = bytes(40)
    kept, rejects = read_counted(write(path, content), 1, bad_files="skip")
    assert kept == texts[:20] + texts[40:]
    assert rejects.counts == {BAD_FILE: 1}
    with pytest.raises(UserError, match=r"a\.parquet: the file is damaged"):
        read(path)


def test_a_parquet_without_the_column_is_refused_by_name_or_counted(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "url": ["y"]}), path)
    with pytest.raises(UserError, match=r"a\.parquet: no column 'text'; it has body, url \(text_field\)"):
        read(path)
    texts, rejects = read_counted(path, bad_files="skip")
    assert (texts, rejects.counts) == ([], {BAD_FILE: 1})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "not JSON"),
        (b'{"text": "breaks off', "not JSON"),
        (b"\x00\x00\x00", "not JSON"),
        (b'{"text": "K\xe4se"}', "not JSON .*UTF-8"),
        (b'{"text": "\xed\xa0\x80 alone"}', "not JSON .*UTF-8"),
        (b'{"text": "a", "x": ' + b"[" * 100_000, "not JSON"),
        (b'{"text": "a", "x": ' + b"9" * 5000 + b"}", "not JSON"),
        ('{"text": "a"}'.encode("utf-16-le"), "not JSON"),
        (b'{"text": NaN}', "no text under 'text'"),
        (b'{"body": "x"}', "no text under 'text'"),
        (b'{"text": null}', "no text under 'text'"),
        (b'["text"]', "no text under 'text'"),
    ],
)
def test_a_bad_line_is_counted_or_refused_with_its_place(tmp_path, line, reason):
    path = write(tmp_path / "a.jsonl", b'{"text": "good"}\n' + line + b'\n{"text": "also"}\n')
    texts, rejects = read_counted(path)
    assert (texts, rejects.counts) == (["good", "also"], {BAD_RECORD: 1})
    assert re.search(rf"a\.jsonl: line 2: {reason}", rejects.examples[BAD_RECORD][0])
    with pytest.raises(UserError, match=rf"a\.jsonl: line 2: {reason}.*max_bad_records"):
        read(path, max_bad_records=0)


def test_what_json_dumps_writes_beyond_the_standard_is_read(tmp_path):
    records = [
        {"text": "lone \ud83d half", "n": 1},
        {"text": "a number that is none", "score": float("nan")},
        {"text": "infinite", "scores": [float("inf"), -float("inf")]},
        {"title": "cut \udc00", "text": "halves elsewhere \U0001f600"},
    ]
    content = "".join(json.dumps(record) + "\n" for record in records)
    assert "\\ud83d" in content and "NaN" in content and "-Infinity" in content
    texts, rejects = read_counted(write(tmp_path / "a.jsonl", content.encode()), max_bad_records=0)
    assert texts == [record["text"] for record in records]
    assert not rejects.counts
    assert clean(texts[0]) == "lone ? half"


def test_the_limit_of_bad_records_is_the_number_that_is_skipped(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "good"}\n' + b"x\n" * 3)
    assert read(path, max_bad_records=3) == ["good"]
    with pytest.raises(UserError, match=r"line 4: not JSON .*, and 2 records before it were skipped"):
        read(path, max_bad_records=2)


def test_a_line_of_a_later_range_is_placed_by_the_range(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "good"}\n' * 3 + b"bad\n")
    _, rejects = read_counted(path, 20)
    assert "line 1 behind byte 40: not JSON" in rejects.examples[BAD_RECORD][0]


def test_memory_is_that_of_a_parquets_pages_and_not_of_its_row_groups(tmp_path):
    # Noise, so that it compresses by half at most: pages of 1 MB in one row group of 60 MB.
    texts = [random.Random(number).randbytes(2000).hex() for number in range(15_000)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts}), tmp_path / "a.parquet", compression="zstd", use_dictionary=False
    )
    column = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
    assert column.total_compressed_size > 25e6
    (input_range,) = ranges_of_file(tmp_path / "a.parquet", config(), 1 << 30)
    before = pyarrow.total_allocated_bytes()
    most = max(pyarrow.total_allocated_bytes() for _ in read_range(input_range, config(), Rejects())) - before
    assert most < column.total_compressed_size / 3


def test_txt_that_is_no_utf8_is_a_bad_record(tmp_path):
    path = write(tmp_path / "a.txt", b"good\n\nK\xe4se\n\nalso\n")
    texts, rejects = read_counted(path)
    assert [text.strip() for text in texts] == ["good", "also"]
    assert re.search(r"a\.txt: byte 6: not UTF-8 \(.* at its byte 1\)", rejects.examples[BAD_RECORD][0])
    with pytest.raises(UserError, match=r"a\.txt: the file: not UTF-8"):
        read(path, txt_documents="file", max_bad_records=0)


WRONG = pyarrow.Array.from_buffers(
    pyarrow.string(), 1, [None, pyarrow.py_buffer(struct.pack("<ii", 0, 4)), pyarrow.py_buffer(b"K\xe4se")]
)


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([b"good", None, b"K\xe4se", b"also"]),
        pyarrow.chunked_array([pyarrow.array(["good", None]), WRONG, pyarrow.array(["also"])]),
    ],
    ids=["bytes", "strings"],
)
def test_parquet_rows_without_text_are_bad_records(tmp_path, column):
    texts, rejects = read_counted(write(tmp_path / "a.parquet", parquet({"text": column})))
    assert texts == ["good", "also"]
    found = [example.split("a.parquet: ")[1] for example in rejects.examples[BAD_RECORD]]
    assert found == ["row 1: no text", "row 2: not UTF-8"]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    assert read(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n')) == ["a"]


@pytest.mark.parametrize("range_bytes", [7, 100, 1 << 20])
def test_documents_far_too_long_are_passed_over_without_being_held(tmp_path, monkeypatch, range_bytes):
    monkeypatch.setattr("data_prep.text.jsonl._OTHER_FIELDS", 20)
    long = b"x" * 5000
    jsonl = b"".join(b'{"text": "%s"}\n' % text for text in (b"a", long, b"b", long))
    write(tmp_path / "a.jsonl", jsonl)
    write(tmp_path / "a.jsonl.gz", gzip.compress(jsonl))
    write(tmp_path / "a.jsonl.zst", zstandard.compress(jsonl))
    write(tmp_path / "a.txt", b"a\n\n" + long + b"\n\nb\n\n" + b"many lines\n" * 500)
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.txt"):
        texts, rejects = read_counted(tmp_path / name, range_bytes, max_characters=10)
        assert ([text.strip() for text in texts], rejects.counts) == (["a", "b"], {TOO_LONG: 2}), name
    texts, rejects = read_counted(tmp_path / "a.txt", max_characters=10, txt_documents="file")
    assert (texts, rejects.counts) == ([], {TOO_LONG: 1})


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"what\.pdf: unknown type of text file; known are \.txt, \.jsonl"):
        ranges_of_file(write(tmp_path / "what.pdf", b"%PDF"), config(), 100)


def test_a_file_that_vanished_is_named(tmp_path):
    path = write(tmp_path / "a.txt", b"text")
    (input_range,) = ranges_of_file(path, config(), 100)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.txt: is no longer there"):
        texts_of(input_range)


def test_examples_are_few_however_many_are_rejected(tmp_path):
    _, rejects = read_counted(write(tmp_path / "a.jsonl", b"x\n" * 90))
    assert rejects.counts == {BAD_RECORD: 90}
    assert len(rejects.examples[BAD_RECORD]) == 5
