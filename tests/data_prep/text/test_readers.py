import gzip
import json
import random
import struct
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_prep.text.columns import find_columns
from data_prep.text.input_ranges import InputRange
from data_prep.text.readers import ranges_of_file, read_range
from data_prep.text.rejects import BAD_RECORD, DamagedError, Rejects
from pipeline.common.errors import UserError
from tests.data_prep.prose import made_up_texts
from tests.data_prep.text.reading import (
    COMPRESSED,
    LINES,
    TEXTS,
    config,
    looking_back,
    paragraphs,
    parquet,
    random_lines,
    read,
    read_counted,
    texts_of,
    write,
)


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


BYTES = [text.encode() for text in TEXTS]
COLUMNS = {
    "string": pyarrow.array(TEXTS, pyarrow.string()),
    "large_string": pyarrow.array(TEXTS, pyarrow.large_string()),
    "string_view": pyarrow.array(TEXTS, pyarrow.string_view()),
    "binary": pyarrow.array(BYTES, pyarrow.binary()),
    "large_binary": pyarrow.array(BYTES, pyarrow.large_binary()),
    "binary_view": pyarrow.array(BYTES, pyarrow.binary_view()),
    "dictionary": pyarrow.array(TEXTS).dictionary_encode(),
    "dictionary_of_binary": pyarrow.array(BYTES, pyarrow.binary()).dictionary_encode(),
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
        texts, rejects = read_counted(tmp_path / "a.parquet", 1, text_field=field)
        assert (texts, rejects.counts) == (TEXTS, {})


NESTED = [
    ({"text": 1, "body": "x"}, "body", "x"),
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
        texts, rejects = read_counted(tmp_path / name, text_field="a.b")
        assert (texts, rejects.counts) == (["x"], {BAD_RECORD: bad})


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
    assert find_columns(schema, config()).text == ("text",)


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
    texts, rejects = read_counted(write(tmp_path / "a.json", b'[{"text": "a"}, {"body": 1}, "text", {"text": "b"}]'))
    assert texts == ["a", "b"]
    places = [place.split("a.json: ")[1] for place in rejects.examples[BAD_RECORD]]
    assert places == [f"record {number}: no text under 'text'" for number in (2, 3)]


@pytest.mark.parametrize(("content", "command"), [(b"[%s]", r"jq -c '\.\[\]'"), (b"{\n%s\n}", r"jq -c '\.'")])
def test_an_array_too_large_to_parse_is_refused_with_the_command_that_converts_it(tmp_path, monkeypatch, content, command):
    monkeypatch.setattr("data_prep.text.jsonl._LARGEST_WHOLE", 1 << 20)
    path = write(tmp_path / "a.json", content % (b" " * (1 << 20)))
    with pytest.raises(UserError, match=f"a.json: is one JSON value of more than 1 MiB, .* {command} FILE.json > FILE.jsonl"):
        read(path)


def test_a_damaged_first_line_does_not_make_a_file_of_lines_one_record(tmp_path):
    texts, rejects = read_counted(write(tmp_path / "a.json", b'{"text": "breaks o\n{"text": "a"}\n'))
    assert (texts, rejects.counts) == (["a"], {BAD_RECORD: 1})


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
    ranges = [InputRange(path=str(path), start=start, stop=start + 5, size=5) for start in range(0, 25, 5)]
    found = {input_range.start: texts_of(input_range) for input_range in ranges}
    assert found == {0: ["one\nstill one\n"], 5: [], 10: [], 15: ["two\n"], 20: ["three\n"]}


def test_parquet_is_read_by_row_group(tmp_path):
    texts = made_up_texts(300)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=50)
    group_bytes = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).total_byte_size
    for size, ranges in ((1, 6), (group_bytes * 5 // 2, 3), (1 << 30, 1)):
        assert len(ranges_of_file(tmp_path / "a.parquet", config(), size)) == ranges
        assert read(tmp_path / "a.parquet", size) == texts


def test_several_frames_and_members_are_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.text.lines._COMPRESSED_CHUNK", 7)
    skippable = struct.pack("<II", 0x184D2A50, 9) + b"somewhere"
    for half in (1, len(LINES) // 2, len(LINES) - 1):
        zst = skippable + zstandard.compress(LINES[:half]) + skippable + zstandard.compress(LINES[half:])
        assert read(write(tmp_path / "a.jsonl.zst", zst)) == TEXTS
        members = gzip.compress(LINES[:half]) + gzip.compress(LINES[half:])
        assert read(write(tmp_path / "a.jsonl.gz", members)) == TEXTS


@pytest.mark.parametrize("window_log", [28, 31])
def test_frames_that_look_far_back_are_read(tmp_path, window_log):
    content = looking_back(window_log)
    assert zstandard.get_frame_parameters(content).window_size == 1 << window_log
    assert read(write(tmp_path / "a.jsonl.zst", content)) == TEXTS
