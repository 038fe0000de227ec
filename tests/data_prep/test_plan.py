import pytest

from data_prep.errors import UserError
from data_prep.plan import draft_plan, expand, expand_shards
from data_prep.settings import CorpusConfig, DataPrepConfig, TokenizerConfig


def names(paths) -> list[str]:
    return [path.name for path in paths]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.txt", "a.txt", "[1].txt", "1.txt", "deep/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"this is {name}")
    return tmp_path


def test_globs_are_expanded_in_order_and_files_named_once(folder):
    assert names(expand([str(folder / "?.txt")], "files")) == ["1.txt", "a.txt", "b.txt"]
    assert names(expand([str(folder / "b.txt"), str(folder / "?.txt")], "files")) == ["b.txt", "1.txt", "a.txt"]
    assert names(expand([str(folder / "**" / "[a-c].txt")], "files")) == ["a.txt", "b.txt", "c.txt"]


def test_a_file_whose_name_looks_like_a_pattern_is_meant_by_its_name(folder):
    assert names(expand([str(folder / "[1].txt")], "files")) == ["[1].txt"]
    (folder / "[1].txt").unlink()
    assert names(expand([str(folder / "[1].txt")], "files")) == ["1.txt"]


def test_a_directory_is_refused_as_one(folder):
    with pytest.raises(UserError, match=r"deep: is a directory; name its files, as in .*deep/\*\.jsonl"):
        expand([str(folder / "deep")], "files")


@pytest.mark.parametrize("pattern", ["nothing.txt", "*.jsonl"])
def test_what_names_no_file_is_refused(folder, pattern):
    with pytest.raises(UserError, match="no such file; heldout_files takes existing files or globs that match some") as refused:
        expand([str(folder / pattern)], "heldout_files")
    assert pattern in str(refused.value)


def test_shards_are_named_by_prefix_or_by_their_indices(folder):
    for name in ("x.idx", "y.idx"):
        (folder / name).touch()
    assert names(expand_shards([str(folder / "x"), str(folder / "*.idx")], "shards")) == ["x", "y"]


def test_heldout_slices_come_first_over_all_corpora_and_are_named_in_order(folder):
    corpora = [
        CorpusConfig(name=name, files=[str(folder / "?.txt")], heldout_files=[str(folder / f"{name}.txt")]) for name in "ab"
    ]
    plan = draft_plan(DataPrepConfig(output_dir="-", corpora=corpora, tokenizer=TokenizerConfig(vocab_size=300)))
    assert [(part.name, part.corpus, part.heldout) for part in plan.slices] == [
        ("00000", "a", True),
        ("00001", "b", True),
        ("00002", "a", False),
        ("00003", "b", False),
    ]
    assert [[piece.path[-5:] for piece in part.pieces] for part in plan.slices] == [
        ["a.txt"], ["b.txt"], ["1.txt", "b.txt"], ["1.txt", "a.txt"],
    ]  # fmt: skip
