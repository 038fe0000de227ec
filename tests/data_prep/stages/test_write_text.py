"""Conditions, columns and cleaned text, from records to files."""

import json
import random
from collections import defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from data_prep.manifest import PreparedData
from data_prep.prepare import prepare
from data_prep.settings import CleanedTextConfig, DataPrepConfig
from data_prep.text.kinds import find_kind
from pipeline.common.errors import UserError
from tests.data_prep.preparing import cleaned_records, dropped_examples, preparation, write_jsonl
from tests.data_prep.prose import made_up_texts

RECORDS = [
    {"text": text, "id": number, "meta": {"score": number % 4, "url": f"https://host{number % 3}.org/{number}"}}
    for number, text in enumerate(made_up_texts(60))
]
COPIES = RECORDS[5:8]
SHORT = {"text": "short", "id": 99, "meta": {"score": 3, "url": None}}
"""Dropped by a step."""
ALL = [*RECORDS, *COPIES, SHORT]


def write_parquet(path, records) -> str:
    pq.write_table(pa.Table.from_pylist(records), path, row_group_size=7)
    return str(path)


def config(tmp_path, files: str, **keys: object) -> DataPrepConfig:
    keys = {"where": "meta.score >= 1", "columns": ["id", "meta.url"], "min_length": 20, "heldout_fraction": 0.2} | keys
    return preparation(tmp_path / "out", {"name": "web", "files": [files]} | keys, cleaned_text={"dropped": True})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedData:
    """All records, prepared with the dropped ones."""
    root = tmp_path_factory.mktemp("all")
    return prepare(config(root, write_jsonl(root / "a.jsonl", ALL)))


@pytest.mark.parametrize(("write", "name"), [(write_jsonl, "a.jsonl"), (write_parquet, "a.parquet")])
@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_every_record_is_written_once_with_what_became_of_it(tmp_path, write, name, format):
    asked = config(tmp_path, write(tmp_path / name, ALL))
    data = prepare(asked.model_copy(update={"cleaned_text": CleanedTextConfig(format=format, dropped=True)}))
    found = cleaned_records(data.directory)
    assert sorted(int(record["id"]) for record in found) == sorted(record["id"] for record in ALL)
    decisions = defaultdict(list)
    for record in found:
        decisions[int(record["id"])].append(record["dropped"] or record["split"])
    for number, decision in decisions.items():
        if number % 4 == 0:
            assert set(decision) == {"where"}
        elif number == 99:
            assert decision == ["too short"]
        else:
            assert decision[0] in ("train", "heldout") and set(decision[1:]) <= {"exact copy"}
    (corpus,) = data.corpora
    assert corpus.splits["train"].documents == sum(decision[0] == "train" for decision in decisions.values())
    assert corpus.dropped == {"where": 15, "too short": 1, "exact copy": 3}
    assert sum(corpus.domains.values()) == len(RECORDS) + len(COPIES) - 15
    one = next(record for record in found if record["id"] == "6")
    assert one["text"] == RECORDS[6]["text"] and one["metadata"] == {"meta.url": "https://host0.org/6", "meta.score": 2}
    assert one["source"].startswith(str(tmp_path / name))


def test_what_is_kept_alone_is_written_unless_the_dropped_are_asked_for_and_is_read_again(tmp_path):
    asked = config(tmp_path, write_jsonl(tmp_path / "a.jsonl", ALL))
    data = prepare(asked.model_copy(update={"cleaned_text": CleanedTextConfig()}))
    found = cleaned_records(data.directory)
    assert {record["dropped"] for record in found} == {""} and len(found) == 45
    again = config(tmp_path, str(data.directory / "text"), where='split == "train"', columns=["source"], heldout_fraction=0.6)
    assert all(find_kind(path) is not None for path in data.directory.glob("text/web/*"))
    (corpus,) = prepare(again.model_copy(update={"output_dir": str(tmp_path / "again")})).corpora
    assert corpus.dropped["where"] == sum(record["split"] == "heldout" for record in found)


def test_datasets_reads_what_was_kept_and_what_was_dropped_together(data, tmp_path):
    """It takes types from the first file, in which every document was dropped."""
    files = str(data.directory / "text/web/*.jsonl.zst")
    read = load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(map(int, read["id"])) == sorted(record["id"] for record in ALL)


def test_examples_of_what_was_dropped_name_file_and_line_and_columns(data):
    (path,) = data.manifest.config.corpora[0].files
    examples = dropped_examples(data.directory)
    copy = next(line for line in examples if line["kind"] == "exact")
    assert (copy["where"], copy["kept_where"]) == (f"{path}: line 61", f"{path}: line 6")
    assert copy["columns"]["id"] == copy["kept_columns"]["id"] == 5
    (short,) = (line for line in examples if line.get("reason") == "too short")
    assert (short["where"], short["text"], short["columns"]["id"]) == (f"{path}: line 64", "short", 99)
    assert sum(line.get("reason") == "where" for line in examples) == 5


def test_values_that_a_condition_does_not_fit_are_bad_records_up_to_the_limit(tmp_path):
    records = [record | {"meta": {"score": "high" if record["id"] % 20 == 0 else 2}} for record in RECORDS]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    (corpus,) = prepare(config(tmp_path, path, columns=["id"], max_bad_records=3)).corpora
    assert corpus.dropped["bad record"] == 3
    with pytest.raises(UserError, match=r"a.jsonl: line 41: where: .* cannot be evaluated for meta.score: 'high'"):
        prepare(config(tmp_path, path, columns=["id"], max_bad_records=2))


def test_columns_that_a_file_has_not_are_refused(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", RECORDS)
    with pytest.raises(UserError, match=r"a.parquet: no column 'meta.points'; it has text, id, meta.score, meta.url"):
        prepare(config(tmp_path, path, where="meta.points > 3"))
    (tmp_path / "a.txt").write_text("plain\n")
    with pytest.raises(UserError, match=r"a.txt: plain text has no 'id'"):
        prepare(config(tmp_path, str(tmp_path / "a.txt"), where=None))


def test_documents_are_written_in_the_order_in_which_they_are_read(tmp_path):
    records = random.Random(3).sample(RECORDS, len(RECORDS))
    path = write_jsonl(tmp_path / "a.jsonl", records)
    whole = cleaned_records(prepare(config(tmp_path, path)).directory)
    expected = [str(record["id"]) for record in records if record["meta"]["score"] >= 1]
    assert [record["id"] for record in whole if record["split"]] == expected


def test_columns_of_any_type_come_out_as_json_has_them(tmp_path):
    table = pa.table(
        {
            "text": made_up_texts(30),
            "day": pa.array([date(2024, 1, 1 + row) for row in range(30)]),
            "at": pa.array([datetime(2024, 1, 1, 12, row, tzinfo=UTC) for row in range(30)], pa.timestamp("us", "UTC")),
            "price": pa.array([Decimal(row) / 4 for row in range(30)], pa.decimal128(9, 2)),
            "score": [float("nan"), float("inf"), *map(float, range(28))],
            "raw": [b"\xff\x00a"] * 30,
            "tags": [["a", None]] * 30,
            "meta": [{"n": 1, "when": date(2024, 1, 1)}] * 30,
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    where = 'day >= "2024-01-03" and price < 7'
    asked = config(tmp_path, str(tmp_path / "a.parquet"), where=where, columns=table.column_names[1:])
    found = [record for record in cleaned_records(prepare(asked).directory) if record["split"]]
    assert [record["metadata"]["price"] for record in found] == [row / 4 for row in range(2, 28)]
    one = {key: value for key, value in found[0]["metadata"].items() if key not in ("price", "score")}
    assert one == {
        "day": "2024-01-03",
        "at": "2024-01-01T12:02:00+00:00",
        "raw": "\ufffd\x00a",
        "tags": ["a", None],
        "meta": {"n": 1, "when": "2024-01-01"},
    }


def test_what_json_itself_has_no_words_for_in_a_column_is_null_or_a_question_mark(tmp_path):
    records = ({"text": text, "id": "lone \ud800", "score": float("nan"), "big": 10**18} for text in made_up_texts(20))
    asked = config(tmp_path, write_jsonl(tmp_path / "a.jsonl", records), where="big > 7", columns=["id", "score"], min_length=1)
    for record in cleaned_records(prepare(asked).directory):
        assert (record["id"], record["metadata"]) == ("lone ?", {"score": None, "big": 10**18})


def test_a_lone_surrogate_is_a_question_mark_whatever_becomes_of_the_document_and_without_normalize(tmp_path):
    records = ({"text": f"lone \ud800 {text}", "id": number} for number, text in enumerate(made_up_texts(30)))
    path = write_jsonl(tmp_path / "a.jsonl", records)
    keys = {"columns": ["id"], "min_length": 1, "heldout_fraction": 0.4, "steps": [{"length": {"max": 650}}]}
    found = cleaned_records(prepare(config(tmp_path, path, where="id > 5", **keys)).directory)
    assert {record["dropped"] for record in found} == {"", "where", "too long"}
    assert len(found) == 30 and all(record["text"].startswith("lone ? ") for record in found)


@pytest.mark.parametrize("keys", [{"where": "scor >= 1"}, {"columns": ["id", "urll"]}])
def test_a_column_that_no_record_has_is_refused_by_name(tmp_path, keys):
    name = "scor" if "where" in keys else "urll"
    with pytest.raises(UserError, match=f"corpora.web: no record has '{name}'"):
        prepare(config(tmp_path, write_jsonl(tmp_path / "a.jsonl", RECORDS), **keys))


def test_a_column_that_is_nested_too_deeply_is_a_bad_record(tmp_path):
    deep = "[" * 900 + "]" * 900
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": {json.dumps(text)}, "id": {deep}}}\n' for text in made_up_texts(3)))
    with pytest.raises(UserError, match=r"a\.jsonl: line 1: .* deep in `columns` or `where`; correct the file"):
        prepare(config(tmp_path, str(tmp_path / "a.jsonl"), where=None, max_bad_records=0))
