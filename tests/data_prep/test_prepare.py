import hashlib
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep.jobs.workers import Alone
from data_prep.manifest import HELDOUT, SPLITS, TRAIN, PreparedData
from data_prep.prepare import find_prepared, prepare, prepare_together
from data_prep.settings import DataPrepConfig
from data_prep.shards import Shard
from pipeline.common.errors import UserError
from tests.conftest import make_documents
from tests.data_prep.preparing import modified, preparation, write_jsonl
from tests.messages import taken_by


def config(corpus: Path, output: Path, **text: object) -> DataPrepConfig:
    return preparation(output, {"files": [str(corpus)]} | text, tokenizer={"vocab_size": 406})


def shards(data: PreparedData, split: str) -> list[Shard]:
    return [Shard(prefix) for corpus in data.corpora for prefix in data.shards(corpus, split)]


def decoded(data: PreparedData, split: str) -> list[str]:
    documents = (ids for shard in shards(data, split) for ids in np.split(shard.tokens, np.cumsum(shard.lengths)[:-1]))
    return [data.tokenizer.decode(ids[:-1].tolist()) for ids in documents]


def test_documents_survive_the_way_into_shards_and_each_ends_with_eos(prepared):
    splits = {split: decoded(prepared, split) for split in (TRAIN, HELDOUT)}
    assert sorted(splits[TRAIN] + splits[HELDOUT]) == sorted(make_documents(400))
    assert not set(splits[TRAIN]) & set(splits[HELDOUT])
    for shard in shards(prepared, TRAIN):
        assert (shard.tokens[np.cumsum(shard.lengths) - 1] == prepared.tokenizer.eos_id).all()


def test_a_folder_is_prepared_as_its_files_are_and_what_is_left_out_is_logged(corpus, tmp_path, caplog):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    shutil.copyfile(corpus, folder / "deep" / "text.ndjson")
    (folder / "README.md").touch()
    caplog.set_level(logging.INFO, "data_prep")
    whole, named = (prepare(config(path, tmp_path / path.name)) for path in (folder, corpus))
    assert caplog.messages[0] == f"data: {folder}: left out are 1 .md files (the first: README.md)"
    assert [decoded(whole, split) for split in SPLITS] == [decoded(named, split) for split in SPLITS]


def test_equal_input_is_prepared_once_and_equal_twice_and_for_other_settings_elsewhere(corpus, tmp_path, caplog):
    caplog.set_level(logging.INFO, "data_prep")
    first = prepare(config(corpus, tmp_path / "a"))
    written = modified(first.directory)
    again = prepare(config(corpus, tmp_path / "a"))
    assert again.directory == first.directory and modified(first.directory) == written
    assert "prepared already" in caplog.messages[-1]

    elsewhere = prepare(config(corpus, tmp_path / "b"))
    for path in first.directory.rglob("*.*"):
        assert path.read_bytes() == (elsewhere.directory / path.relative_to(first.directory)).read_bytes(), path.name

    other = prepare(config(corpus, tmp_path / "a", min_length=400))
    assert other.directory != first.directory and other.corpora[0].dropped["too short"] > 0


def test_the_manifest_tells_what_is_there(prepared):
    manifest = prepared.manifest
    for split in SPLITS:
        entry = manifest.corpora[0].splits[split]
        assert entry.tokens == sum(len(shard.tokens) for shard in shards(prepared, split))
        assert entry.documents == sum(len(shard.lengths) for shard in shards(prepared, split))
    tokens = np.concatenate([shard.tokens for shard in shards(prepared, TRAIN)])
    share = np.unique(tokens, return_counts=True)[1] / len(tokens)
    assert prepared.unigram_entropy(prepared.weights) == pytest.approx(-(share * np.log(share)).sum(), rel=1e-12)
    there = {str(path.relative_to(prepared.directory)) for path in modified(prepared.directory)}
    assert set(manifest.files) == there - {"manifest.json"}
    for name, digest in manifest.files.items():
        content = (prepared.directory / name).read_bytes()
        assert hashlib.blake2b(content, digest_size=16).hexdigest() == digest


def test_a_failure_leaves_nothing_behind(corpus, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(corpus.read_bytes() + b"not json\n" * 200)
    with pytest.raises(UserError, match=r"broken\.jsonl: line"):
        prepare(config(broken, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_changes_after_it_was_hashed_is_not_read_as_what_it_was(corpus, tmp_path):
    text = tmp_path / "text.jsonl"
    shutil.copyfile(corpus, text)
    asked = config(text, tmp_path / "out")

    def change(line: str) -> None:
        if line.startswith("data: plan"):
            text.write_bytes(text.read_bytes().replace(b" a", b" b"))
            os.utime(text, ns=(1, 1))

    with pytest.raises(UserError, match=r"text\.jsonl: has changed since it was hashed"), taken_by(change):
        prepare_together(asked, Alone())
    assert not list((tmp_path / "out" / "work").glob("clean/*"))
    # What it holds now is another plan, and written again as it was it is the same.
    with taken_by(lambda line: os.utime(text) if line.startswith("data: plan") else None):
        prepare_together(asked, Alone())
    assert PreparedData(tmp_path / "out").corpora


def test_named_heldout_files_are_the_heldout_split(corpus, tmp_path):
    texts = make_documents(20, seed=5)
    heldout = write_jsonl(tmp_path / "heldout.jsonl", texts)
    data = prepare(config(corpus, tmp_path / "out", heldout_files=[heldout]))
    assert decoded(data, HELDOUT) == texts
    assert data.corpora[0].splits[TRAIN].documents == 400


def test_a_tokenizer_without_text_for_its_vocabulary_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "short.jsonl", (f"{number} words" for number in range(300)))
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size: 30000"):
        prepare(preparation(tmp_path / "out", {"files": [path]}, tokenizer={"vocab_size": 30_000}))


def test_what_is_found_prepared_is_what_would_be_prepared(corpus, tmp_path):
    """By what the files hold and not by their names and sizes, by whatever name they are called."""
    text = tmp_path / "text.jsonl"
    text.write_bytes(corpus.read_bytes())
    request = config(text, tmp_path / "out")
    assert find_prepared(request) is None
    made = prepare(request)
    assert find_prepared(request).directory == made.directory
    content = text.read_bytes()
    changed = content.replace(b"the", b"eht", 1)
    assert len(changed) == len(content) and changed != content
    text.write_bytes(changed)
    assert find_prepared(request) is None
    other = prepare(request)
    assert other.directory != made.directory
    assert find_prepared(request).directory == other.directory
    text.write_bytes(content)
    assert find_prepared(request).directory == made.directory
    assert find_prepared(config(text, tmp_path / "elsewhere")) is None
    text.unlink()
    with pytest.raises(UserError, match="no such file"):
        find_prepared(request)
