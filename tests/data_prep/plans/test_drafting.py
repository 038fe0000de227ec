import os
import re
from pathlib import Path

import pytest

from data_prep.plans import drafting
from data_prep.plans.drafting import draft_plan, expand_shards
from data_prep.plans.frozen_plan import check_settings, freeze
from data_prep.settings import DataPrepConfig
from pipeline.common.errors import UserError
from tests.data_prep.preparing import preparation


def names(paths) -> list[str]:
    return [path.name for path in paths]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.txt", "a.txt", "[1].txt", "1.txt", "deep/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"this is {name}")
    return tmp_path


def expand(patterns: list[str], key: str) -> list[Path]:
    return drafting.expand(patterns, key, [])


def test_globs_are_expanded_in_order_and_files_named_once(folder):
    assert names(expand([str(folder / "?.txt")], "files")) == ["1.txt", "a.txt", "b.txt"]
    assert names(expand([str(folder / "b.txt"), str(folder / "?.txt")], "files")) == ["b.txt", "1.txt", "a.txt"]
    assert names(expand([str(folder / "**" / "[a-c].txt")], "files")) == ["a.txt", "b.txt", "c.txt"]


def test_a_file_whose_name_looks_like_a_pattern_is_meant_by_its_name(folder):
    assert names(expand([str(folder / "[1].txt")], "files")) == ["[1].txt"]
    (folder / "[1].txt").unlink()
    assert names(expand([str(folder / "[1].txt")], "files")) == ["1.txt"]


def test_a_folder_stands_for_the_files_of_text_below_it_by_their_paths(folder):
    for name in ("z.jsonl.gz", "deep/deeper/b.NDJSON", "deep/a.parquet", "deep.d/a.json.xz"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "y.txt").symlink_to(folder / "deep" / "c.txt")
    below = ["1.txt", "[1].txt", "a.txt", "b.txt", "a.parquet", "c.txt", "b.NDJSON", "a.json.xz", "y.txt", "z.jsonl.gz"]
    left_out: list[str] = []
    assert names(drafting.expand([str(folder)], "files", left_out)) == below
    assert left_out == []
    # What a glob matches is read as if it was named.
    assert names(expand([str(folder / "d*")], "files")) == ["a.parquet", "c.txt", "b.NDJSON", "a.json.xz"]
    assert names(expand([str(folder / "deep" / "c.txt"), str(folder / "deep")], "files")) == ["c.txt", "a.parquet", "b.NDJSON"]


def test_what_is_left_out_of_a_folder_is_said_with_its_first_example(folder):
    (folder / "linked").symlink_to(folder / "deep")
    (folder / "gone.txt").symlink_to(folder / "nothing")
    for name in ("README.md", "deep/notes.md", "x.parquet.gz", "_SUCCESS", ".hidden.txt", ".git/a.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    left_out: list[str] = []
    assert names(drafting.expand([str(folder)], "files", left_out)) == ["1.txt", "[1].txt", "a.txt", "b.txt", "c.txt"]
    assert left_out == [
        f"{folder}: left out are 1 .gz files (the first: x.parquet.gz), 2 .md files (the first: README.md), 1 files without an "
        "ending (the first: _SUCCESS), 2 hidden (the first: .git), 1 links to folders (the first: linked), 1 not regular files "
        "(the first: gone.txt)"
    ]


def test_a_file_whose_name_is_not_utf_8_is_refused(folder):
    (folder / os.fsdecode(b"\xff.jsonl")).write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=r"\\xff.jsonl: its name is not UTF-8.*rename it"):
        draft_plan(preparation("-", {"files": [str(folder / "*.jsonl")]}))


def test_a_folder_without_text_is_refused_by_what_it_holds(tmp_path):
    with pytest.raises(UserError, match=r": no file of text is in this folder or below it; files reads \.txt, \.jsonl"):
        expand([str(tmp_path)], "files")
    (tmp_path / "a.bin").touch()
    with pytest.raises(UserError, match=r"below it; it holds 1 \.bin files \(the first: a\.bin\); heldout_files reads"):
        expand([str(tmp_path)], "heldout_files")


@pytest.mark.parametrize("name", ["state.json data.arrow", "dataset_dict.json"])
def test_a_saved_dataset_in_a_folder_is_refused_with_the_key_for_it(tmp_path, name):
    (tmp_path / "saved").mkdir()
    for file in name.split():
        (tmp_path / "saved" / file).write_text("{}")
    with pytest.raises(UserError, match=r"saved: is a dataset that save_to_disk wrote; name it as `dataset`, not in files"):
        expand([str(tmp_path)], "files")


def test_held_out_files_are_left_out_of_the_folder_that_is_trained_on(folder):
    (folder / "notes.md").touch()
    drafted = draft_plan(preparation("-", {"files": [str(folder)], "heldout_files": [str(folder / "deep")]}))
    read = {part.heldout: [Path(input_range.path).name for input_range in part.pieces] for part in drafted.slices}
    assert read == {True: ["c.txt"], False: ["1.txt", "[1].txt", "a.txt", "b.txt"]}
    assert drafted.left_out == [f"{folder}: left out are 1 .md files (the first: notes.md)"]


@pytest.mark.parametrize("pattern", ["nothing.txt", "*.jsonl"])
def test_what_names_no_file_is_refused(folder, pattern):
    message = f"{re.escape(pattern)}: no such file; heldout_files takes existing files, folders, or globs that match some"
    with pytest.raises(UserError, match=message):
        expand([str(folder / pattern)], "heldout_files")


def test_shards_are_named_by_prefix_or_by_their_indices(folder):
    for name in ("x.idx", "y.idx"):
        (folder / name).touch()
    assert names(expand_shards([str(folder / "x"), str(folder / "*.idx")], "shards")) == ["x", "y"]


def test_heldout_slices_come_first_over_all_corpora_and_are_named_in_order(folder):
    files, held = [str(folder / "?.txt")], {name: [str(folder / f"{name}.txt")] for name in "ab"}
    corpora = ({"name": name, "files": files, "heldout_files": held[name]} for name in "ab")
    assert [
        (part.name, part.corpus, part.heldout, [input_range.path[-5:] for input_range in part.pieces])
        for part in draft_plan(preparation("-", *corpora)).slices
    ] == [
        ("00000", "a", True, ["a.txt"]),
        ("00001", "b", True, ["b.txt"]),
        ("00002", "a", False, ["1.txt", "b.txt"]),
        ("00003", "b", False, ["1.txt", "a.txt"]),
    ]


def test_a_plan_that_asks_for_nothing_new_has_the_digest_that_it_had_before_there_were_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    asked = preparation("-", {"files": ["a.jsonl"], "min_length": 3, "boilerplate": ["^x"]}, tokenizer={"vocab_size": 300})
    # As the version before steps gives it.
    assert freeze(draft_plan(asked), ["0"]).digest == "f3839857cd30754299dc15a0dd0d8aa5"


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"part_mib": 3}, "part_mib"),
        ({"corpora": [{"files": ["a.jsonl"], "min_length": 4}]}, "corpora.text.min_length"),
        ({"corpora": [{"files": ["b.jsonl"]}]}, "corpora.text.files.0"),
        ({"corpora": [{"files": ["a.jsonl"], "steps": ["normalize"]}]}, "corpora.text.steps"),
        ({"corpora": [{"files": ["a.jsonl"]}, {"name": "b", "files": ["b.jsonl"]}]}, "corpora"),
        ({"tokenizer": {"vocab_size": 301}}, "tokenizer.vocab_size"),
    ],
)
def test_the_first_setting_that_is_another_is_named_with_its_place(tmp_path, monkeypatch, changed, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    asked = {"output_dir": "out", "corpora": [{"files": ["a.jsonl"]}], "tokenizer": {"vocab_size": 300}}
    planned = draft_plan(DataPrepConfig.model_validate(asked))
    with pytest.raises(UserError, match=rf"^out: was started with another `{place}`; put that back"):
        check_settings(planned, DataPrepConfig.model_validate(asked | changed), "out")
    check_settings(planned, DataPrepConfig.model_validate(asked | {"output_dir": "elsewhere"}), "out")
