import bz2
import errno
import gzip
import io
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

from data_prep.settings import CorpusConfig
from data_prep.text.clean import clean
from data_prep.text.columns import find_columns
from data_prep.text.input_ranges import InputRange
from data_prep.text.readers import ranges_of_file, read_range
from data_prep.text.rejects import BAD_FILE, BAD_RECORD, TOO_LONG, DamagedError, Rejects
from pipeline.common.errors import UserError
from tests.data_prep.prose import made_up_texts

TEXTS = ["first document", "second\nwith two lines", "dritter, mit Umlauten äöü", "", "fifth 😀"]
LINES = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in TEXTS).encode()


def config(**options: object) -> CorpusConfig:
    return CorpusConfig(**({"files": ["-"]} | options))


def read(path: Path, range_bytes: int = 1 << 20, rejects: Rejects | None = None, **options: object) -> list[str]:
    corpus = config(**options)
    rejects = Rejects() if rejects is None else rejects
    return [
        document.text
        for input_range in ranges_of_file(path, corpus, range_bytes)
        for document in read_range(input_range, corpus, rejects)
    ]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def parquet(columns: dict[str, object]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


COMPRESSED = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".json", ".JSONL"])
def test_records_a_line_are_read_under_every_name_and_compression(tmp_path, ending, compression):
    assert read(write(tmp_path / f"a.b{ending}{compression}", COMPRESSED[compression](LINES))) == TEXTS


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize("divided", ["blank_line", "file"])
def test_plain_text_is_read_under_every_compression(tmp_path, compression, divided):
    content = b"\nfirst\nline\n \n\nsecond\n\nthird"
    texts = {"blank_line": ["first\nline\n", "second\n", "third"], "file": [content.decode()]}[divided]
    path = write(tmp_path / f"a.txt{compression}", COMPRESSED[compression](content))
    assert read(path, 5, txt_documents=divided) == texts


def test_parquet_gives_the_same_documents(tmp_path):
    assert read(write(tmp_path / "a.parquet", parquet({"n": [1] * 5, "text": TEXTS}))) == TEXTS


# Values


def dictionary(values: pyarrow.Array) -> pyarrow.Array:
    return values.dictionary_encode()


BYTES = [text.encode() for text in TEXTS]
COLUMNS = {
    "large_string": pyarrow.array(TEXTS, pyarrow.large_string()),
    "string_view": pyarrow.array(TEXTS, pyarrow.string_view()),
    "binary": pyarrow.array(BYTES, pyarrow.binary()),
    "large_binary": pyarrow.array(BYTES, pyarrow.large_binary()),
    "binary_view": pyarrow.array(BYTES, pyarrow.binary_view()),
    "dictionary": dictionary(pyarrow.array(TEXTS)),
    "dictionary_of_binary": dictionary(pyarrow.array(BYTES, pyarrow.binary())),
    "list": pyarrow.array([text.split("\n") for text in TEXTS], pyarrow.list_(pyarrow.string())),
    "large_list": pyarrow.array([text.split("\n") for text in TEXTS], pyarrow.large_list(pyarrow.large_string())),
    "list_of_binary": pyarrow.array([text.encode().split(b"\n") for text in TEXTS], pyarrow.list_(pyarrow.binary())),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("written_with_arrows_schema", [True, False])
def test_parquet_text_is_read_from_every_type_of_column(tmp_path, kind, written_with_arrows_schema):
    table = pyarrow.table(
        {"id": range(5), "text": COLUMNS[kind], "in": pyarrow.StructArray.from_arrays([COLUMNS[kind]], ["b"])}
    )
    size = None if "view" in kind else 2  # the library writes no part of these
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=size, store_schema=written_with_arrows_schema)
    for field in ("text", "in.b"):
        rejects = Rejects()
        assert read(tmp_path / "a.parquet", 1, rejects, text_field=field) == TEXTS
        assert not rejects.counts


def test_bytes_that_are_no_utf8_are_bad_records(tmp_path):
    path = write(tmp_path / "a.parquet", parquet({"text": [b"good", b"K\xe4se", None, b"also"]}))
    rejects = Rejects()
    assert read(path, rejects=rejects) == ["good", "also"]
    assert [place.split("a.parquet: ")[1] for place in rejects.examples[BAD_RECORD]] == [
        "row 1: not UTF-8",
        "row 2: no text",
    ]


NESTED = [
    ({"a": {"b": "x"}}, "a.b", "x"),
    ({"a": {"b": {"c": "x", "d": "y"}}}, "a.b.c", "x"),
    ({"a.b": "x", "a": {"b": "y"}}, "a.b", "x"),
    ({"a": {"b.c": "x", "b": {"c": "y"}}}, "a.b.c", "x"),
    ({"a": {"b": ["x", "y"]}}, "a.b", "x\ny"),
    ({"text": ["one paragraph", "another"]}, "text", "one paragraph\nanother"),
    ({"text": []}, "text", ""),
]


@pytest.mark.parametrize(("record", "field", "text"), NESTED)
def test_a_name_with_points_leads_into_records_unless_a_key_is_spelled_so(tmp_path, record, field, text):
    lines = write(tmp_path / "a.jsonl", json.dumps(record).encode())
    table = write(tmp_path / "a.parquet", parquet({key: [value] for key, value in record.items()}))
    assert read(lines, text_field=field, max_bad_records=0) == [text]
    assert read(table, text_field=field, max_bad_records=0) == [text]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([{"role": "user", "content": "hi"}], "a list with an object of role, content in it"),
        (["a", None], "a list with null in it"),
        ([["a"]], "a list with a list in it"),
        ({"b": "x"}, "an object of b"),
        (3, "a number"),
        (True, "true or false"),
    ],
)
def test_a_record_without_text_is_refused_by_what_it_holds(tmp_path, value, what):
    path = write(tmp_path / "a.jsonl", json.dumps({"text": value}).encode())
    with pytest.raises(UserError, match=f"a.jsonl: line 1: no text under 'text' but {what}; .*text_field"):
        read(path, max_bad_records=0)


def test_a_null_on_the_way_to_a_field_is_a_bad_record(tmp_path):
    table = pyarrow.table({"a": [{"b": "x"}, None, {"b": None}]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    write(tmp_path / "a.jsonl", b'{"a": {"b": "x"}}\n{"a": null}\n{"a": {"b": null}}\n{"a": "no object"}\n{}')
    for name, bad in (("a.parquet", 2), ("a.jsonl", 4)):
        rejects = Rejects()
        assert read(tmp_path / name, rejects=rejects, text_field="a.b") == ["x"]
        assert rejects.counts == {BAD_RECORD: bad}


@pytest.mark.parametrize(
    ("column", "field", "message"),
    [
        ([{"b": "x", "c": {"d": "y"}}], "text", "column 'text' holds structs; name one of their fields: text.b, text.c"),
        ([{"b": "x", "c": {"d": "y"}}], "text.e", r"no column 'text.e'; it has text.b, text.c.d \(text_field\)"),
        ([{"b": "x"}], "text.b.c", r"no column 'text.b.c'; it has text.b \(text_field\)"),
        ([[{"role": "user", "content": "hi"}]], "text", "column 'text' holds list<.*role: string.*>, as chats do, and text"),
        ([[["a"]]], "text", "column 'text' holds list<.*list<.*>>, and text or lists of texts are read"),
        ([3], "text", "column 'text' holds int64, and text or lists of texts are read"),
        ([1.5], "text", "column 'text' holds double"),
        (pyarrow.array([[("a", "b")]], pyarrow.map_(pyarrow.string(), pyarrow.string())), "text", "column 'text' holds map<"),
    ],
)
def test_a_column_without_text_is_refused_by_what_it_holds(tmp_path, column, field, message):
    with pytest.raises(UserError, match=rf"a\.parquet: {message}"):
        read(write(tmp_path / "a.parquet", parquet({"text": column})), text_field=field)


def test_two_columns_of_the_name_are_refused(tmp_path):
    one, other = pyarrow.array(["a"]), pyarrow.array(["b"])
    inner = pyarrow.StructArray.from_arrays([one, other], names=["b", "b"])
    for columns, names, field, called in (
        ([one, other], ["text", "text"], "text", "text"),
        ([inner, inner], ["a", "a"], "a.b", "a"),
        ([inner], ["a"], "a.b", "b"),
    ):
        with pytest.raises(DamagedError, match=f"^2 columns are called '{called}', and one is to be read; rename"):
            find_columns(pyarrow.Table.from_arrays(columns, names).schema, config(text_field=field))
    schema = pyarrow.Table.from_arrays([one, other, one], ["n", "text", "n"]).schema
    assert find_columns(schema, config()).text.path == ("text",)


# JSON that is no record a line


RECORDS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("before", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_a_json_array_is_read_whatever_its_layout(tmp_path, indent, before, compression):
    content = before + json.dumps(RECORDS, indent=indent).encode()
    assert read(write(tmp_path / f"a.json{compression}", COMPRESSED[compression](content)), 20) == TEXTS


def test_a_json_object_over_several_lines_is_one_record(tmp_path):
    for content in (json.dumps(RECORDS[1], indent=2), '{"id": 1,\n"text": "second\\nwith two lines"}'):
        assert read(write(tmp_path / "a.json", content.encode()), 7) == [TEXTS[1]]


def test_bad_records_of_an_array_are_counted_by_number(tmp_path):
    rejects = Rejects()
    path = write(tmp_path / "a.json", b'[{"text": "a"}, {"body": 1}, "text", {"text": "b"}]')
    assert read(path, rejects=rejects) == ["a", "b"]
    assert [place.split("a.json: ")[1] for place in rejects.examples[BAD_RECORD]] == [
        "record 2: no text under 'text'",
        "record 3: no text under 'text'",
    ]


@pytest.mark.parametrize(("content", "command"), [(b"[%s]", r"jq -c '\.\[\]'"), (b"{\n%s\n}", r"jq -c '\.'")])
def test_an_array_too_large_to_parse_is_refused_with_the_command_that_converts_it(tmp_path, monkeypatch, content, command):
    monkeypatch.setattr("data_prep.text.jsonl._LARGEST_WHOLE", 1 << 20)
    path = write(tmp_path / "a.json", content % (b" " * (1 << 20)))
    with pytest.raises(UserError, match=f"a.json: is one JSON value of more than 1 MiB, .* {command} FILE.json > FILE.jsonl"):
        read(path)


def test_a_damaged_first_line_does_not_make_a_file_of_lines_one_record(tmp_path):
    rejects = Rejects()
    assert read(write(tmp_path / "a.json", b'{"text": "breaks o\n{"text": "a"}\n'), rejects=rejects) == ["a"]
    assert rejects.counts == {BAD_RECORD: 1}


# What is read is reported


@pytest.mark.parametrize("name", [f"a{end}{packed}" for end in (".jsonl", ".txt") for packed in COMPRESSED] + ["a.parquet"])
def test_what_is_read_of_a_range_is_reported_on_the_way_and_sums_up_to_its_size(tmp_path, name, monkeypatch):
    monkeypatch.setattr("data_prep.text.lines._COMPRESSED_CHUNK", 512)
    texts = made_up_texts(1500)
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / name, row_group_size=500)
    else:
        lines = "".join((json.dumps({"text": text}) if ".jsonl" in name else text + "\n") + "\n" for text in texts)
        write(tmp_path / name, COMPRESSED[Path(name).suffix if Path(name).suffix in COMPRESSED else ""](lines.encode()))
    (input_range,) = ranges_of_file(tmp_path / name, config(), 1 << 30)
    reported: list[int] = []
    before = [sum(reported) for _ in read_range(input_range, config(), Rejects(), reported.append)]
    # Parquet's batches are rounded down.
    assert sum(reported) == pytest.approx(input_range.size, abs=20)
    # bzip2 gives nothing before it has read 900 kB of text, which is nearly all here.
    assert len(set(before)) >= (2 if name.endswith(".bz2") else 3)
    assert name.endswith(".bz2") or before[len(before) // 2] == pytest.approx(input_range.size / 2, rel=0.6)


def test_another_key_or_column_holds_the_text(tmp_path):
    write(tmp_path / "a.jsonl", b'{"text": 1, "body": "b"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": [1], "body": ["b"]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert read(tmp_path / name, text_field="body") == ["b"]


# Byte ranges


def random_lines(draw: random.Random) -> bytes:
    """Lines of text, empty ones, and ones of white space, ended in any way, the last perhaps not at all."""
    lines = draw.choices([b"a", b"bc d", "é😀".encode(), b"", b" ", b" \t", b"\x0b", b"long " * 30], k=draw.randrange(1, 25))
    content = b"".join(line + draw.choice([b"\n", b"\n", b"\r\n"]) for line in lines)
    return content.rstrip(b"\r\n") + b"x" if draw.random() < 0.3 else content


def paragraphs(content: bytes) -> list[str]:
    """What a reader of the whole file finds: an independent account of the same rule."""
    return [found.decode() for found in re.findall(rb"(?:^[^\n]*[^\s][^\n]*(?:\n|\Z))+", content, re.MULTILINE)]


@pytest.mark.parametrize("seed", range(5))
def test_ranges_of_txt_give_the_documents_of_the_whole_whatever_their_size(tmp_path, seed, monkeypatch):
    monkeypatch.setattr("data_prep.text.txt._LOOK_BACK", 3)
    monkeypatch.setattr("data_prep.text.lines._BUFFER", 16)
    draw = random.Random(seed)
    for _ in range(15):
        path = write(tmp_path / "a.txt", random_lines(draw))
        whole = paragraphs(path.read_bytes())
        for size in [*range(1, 12), draw.randrange(12, 100), draw.randrange(100, 1000), 1 << 20]:
            assert read(path, size) == whole, (size, path.read_bytes())


@pytest.mark.parametrize("seed", range(5))
def test_ranges_of_jsonl_give_the_documents_of_the_whole_whatever_their_size(tmp_path, seed, monkeypatch):
    monkeypatch.setattr("data_prep.text.lines._BUFFER", 16)
    draw = random.Random(seed)
    texts = [text[: draw.randrange(1, 100)] for text in made_up_texts(12, seed)]
    for end in (b"\n", b"\r\n", b"\n\n", b"\n  \n"):
        content = end.join(json.dumps({"text": text}, ensure_ascii=False).encode() for text in texts)
        for path in (write(tmp_path / "a.jsonl", content), write(tmp_path / "b.jsonl", end + content + end)):
            for size in [1, 2, 3, 5, 7, *(draw.randrange(8, 500) for _ in range(8)), 1 << 20]:
                assert read(path, size) == texts, size


def test_each_range_is_read_without_the_others(tmp_path):
    path = write(tmp_path / "a.txt", b"one\nstill one\n\ntwo\n\nthree\n")
    corpus = config()
    found = {
        start: [
            document.text
            for document in read_range(InputRange(path=str(path), start=start, stop=start + 5, size=5), corpus, Rejects())
        ]
        for start in range(0, 25, 5)
    }
    assert found == {0: ["one\nstill one\n"], 5: [], 10: [], 15: ["two\n"], 20: ["three\n"]}


def test_txt_is_one_document_where_asked(tmp_path):
    path = write(tmp_path / "a.txt", b"one\ntwo\n\n\nthree\n")
    assert read(path, txt_documents="file") == ["one\ntwo\n\n\nthree\n"]
    assert read(path, 3, txt_documents="file") == ["one\ntwo\n\n\nthree\n"]


def test_parquet_is_read_by_row_group(tmp_path):
    texts = made_up_texts(300)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=50)
    group_bytes = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).total_byte_size
    for size, ranges in ((1, 6), (group_bytes * 5 // 2, 3), (1 << 30, 1)):
        assert len(ranges_of_file(tmp_path / "a.parquet", config(), size)) == ranges
        assert read(tmp_path / "a.parquet", size) == texts


# Compression


def test_several_frames_and_members_are_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.text.lines._COMPRESSED_CHUNK", 7)
    skippable = struct.pack("<II", 0x184D2A50, 9) + b"somewhere"
    for half in (1, len(LINES) // 2, len(LINES) - 1):
        zst = skippable + zstandard.compress(LINES[:half]) + skippable + zstandard.compress(LINES[half:])
        assert read(write(tmp_path / "a.jsonl.zst", zst)) == TEXTS
        members = gzip.compress(LINES[:half]) + gzip.compress(LINES[half:])
        assert read(write(tmp_path / "a.jsonl.gz", members)) == TEXTS


def looking_back(window_log: int) -> bytes:
    """LINES, compressed as by `zstd --long`."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(LINES) + compressor.flush()


@pytest.mark.parametrize("window_log", [28, 31])
def test_frames_that_look_far_back_are_read(tmp_path, window_log):
    content = looking_back(window_log)
    assert zstandard.get_frame_parameters(content).window_size == 1 << window_log
    assert read(write(tmp_path / "a.jsonl.zst", content)) == TEXTS


# Faults


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
    rejects = Rejects()
    read(path, rejects=rejects, bad_files="skip")
    assert rejects.counts == {BAD_FILE: 1}
    assert re.search(f"{name}: {message}", rejects.examples[BAD_FILE][0])


WITHOUT_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from data_prep.settings import CorpusConfig
from data_prep.text.clean import clean
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
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS, path],
        capture_output=True, text=True, check=True, timeout=60, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    planned, read = done.stdout.splitlines()
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
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY, path],
        capture_output=True, text=True, check=True, timeout=60, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert "not enough memory" in done.stdout


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
    rejects = Rejects()
    assert read(write(path, content), 1, rejects, bad_files="skip") == texts[:20] + texts[40:]
    assert rejects.counts == {BAD_FILE: 1}
    with pytest.raises(UserError, match=r"a\.parquet: the file is damaged"):
        read(path)


def test_a_parquet_without_the_column_is_refused_by_name_or_counted(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "url": ["y"]}), path)
    with pytest.raises(UserError, match=r"a\.parquet: no column 'text'; it has body, url \(text_field\)"):
        read(path)
    rejects = Rejects()
    assert read(path, rejects=rejects, bad_files="skip") == []
    assert rejects.counts == {BAD_FILE: 1}


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
    rejects = Rejects()
    assert read(path, rejects=rejects) == ["good", "also"]
    assert rejects.counts == {BAD_RECORD: 1}
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
    rejects = Rejects()
    texts = read(write(tmp_path / "a.jsonl", content.encode()), rejects=rejects, max_bad_records=0)
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
    rejects = Rejects()
    read(path, 20, rejects)
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
    rejects = Rejects()
    assert [text.strip() for text in read(path, rejects=rejects)] == ["good", "also"]
    assert re.search(r"a\.txt: byte 6: not UTF-8 \(.* at its byte 1\)", rejects.examples[BAD_RECORD][0])
    with pytest.raises(UserError, match=r"a\.txt: the file: not UTF-8"):
        read(path, txt_documents="file", max_bad_records=0)


def test_parquet_rows_without_text_are_bad_records(tmp_path):
    wrong = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, pyarrow.py_buffer(struct.pack("<ii", 0, 4)), pyarrow.py_buffer(b"K\xe4se")]
    )
    column = pyarrow.chunked_array([pyarrow.array(["good", None]), wrong, pyarrow.array(["also"])])
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    rejects = Rejects()
    assert read(tmp_path / "a.parquet", rejects=rejects) == ["good", "also"]
    assert [example.split("a.parquet: ")[1] for example in rejects.examples[BAD_RECORD]] == [
        "row 1: no text",
        "row 2: not UTF-8",
    ]


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
        rejects = Rejects()
        assert [text.strip() for text in read(tmp_path / name, range_bytes, rejects, max_characters=10)] == ["a", "b"], name
        assert rejects.counts == {TOO_LONG: 2}
    rejects = Rejects()
    assert read(tmp_path / "a.txt", rejects=rejects, max_characters=10, txt_documents="file") == []
    assert rejects.counts == {TOO_LONG: 1}


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"what\.pdf: unknown type of text file; known are \.txt, \.jsonl"):
        ranges_of_file(write(tmp_path / "what.pdf", b"%PDF"), config(), 100)


def test_a_file_that_vanished_is_named(tmp_path):
    path = write(tmp_path / "a.txt", b"text")
    (input_range,) = ranges_of_file(path, config(), 100)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.txt: is no longer there"):
        list(read_range(input_range, config(), Rejects()))


def test_examples_are_few_however_many_are_rejected(tmp_path):
    rejects = Rejects()
    read(write(tmp_path / "a.jsonl", b"x\n" * 90), rejects=rejects)
    assert rejects.counts == {BAD_RECORD: 90}
    assert len(rejects.examples[BAD_RECORD]) == 5
